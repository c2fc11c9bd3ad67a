"""Refuses crates whose licence is none of those that this project can be given away with.

Reads what `cargo metadata` says; needs no network once the crates are there.
"""

import json
import re
import subprocess
import sys

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "NCSA",
    "OpenSSL",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
}

# Crates that name a file instead, and what is in it.
BY_FILE = {
    "rsip": "MIT",
    "rsip-derives": "MIT",
}


def tokens(expression):
    # "MIT/Apache-2.0" is how OR was written once.
    return re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))


def alternatives(rest):
    """SPDX: OR binds weakest. Consumes tokens; tells whether the expression can be satisfied."""
    allowed = all_of(rest)
    while rest and rest[0] == "OR":
        rest.pop(0)
        allowed = all_of(rest) or allowed
    return allowed


def all_of(rest):
    allowed = one(rest)
    while rest and rest[0] == "AND":
        rest.pop(0)
        allowed = one(rest) and allowed
    return allowed


def one(rest):
    if not rest:
        return False
    licence = rest.pop(0)
    if licence == "(":
        allowed = alternatives(rest)
        return bool(rest) and rest.pop(0) == ")" and allowed
    if len(rest) >= 2 and rest[0] == "WITH":
        licence = f"{licence} {rest.pop(0)} {rest.pop(0)}"
    return licence in ALLOWED


def is_allowed(expression):
    rest = tokens(expression)
    return alternatives(rest) and not rest


def check_the_rules():
    """What this file itself has to get right."""
    for good in ["MIT", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "(MIT OR GPL-3.0) AND ISC", "Apache-2.0 WITH LLVM-exception"]:
        assert is_allowed(good), good
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT)", "Apache-2.0 WITH Classpath-exception-2.0"]:
        assert not is_allowed(bad), bad


def main():
    check_the_rules()
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    packages = json.loads(subprocess.check_output(command))["packages"]
    refused = 0
    for package in packages:
        licence = package["license"] or BY_FILE.get(package["name"], "")
        if not is_allowed(licence):
            refused += 1
            print(f"{package['name']} {package['version']}: {licence or 'no licence given'}", file=sys.stderr)
    print(f"{len(packages)} crates, {refused} with a licence that is not allowed")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
