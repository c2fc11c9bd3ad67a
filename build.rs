//! Generates the gRPC code of the mobile core's API from `proto/`, without `protoc`.

use std::error::Error;
use std::path::PathBuf;

const PROTOS: [&str; 6] = [
    "wgtwo/common/v0/types.proto",
    "wgtwo/common/v1/types.proto",
    "wgtwo/events/v1/events.proto",
    "wgtwo/consents/v1/consents.proto",
    "wgtwo/sipbreakout/v0/sipbreakout.proto",
    "wgtwo/sipbreakout/v1/sipbreakout.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");
    // `sqlx::migrate!` reads the folder while compiling, which cargo does not know.
    println!("cargo::rerun-if-changed=migrations");
    let serves = std::env::var_os("CARGO_FEATURE_SANDBOX").is_some();

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(PROTOS)?;
    tonic_prost_build::configure()
        .build_server(serves)
        .include_file("core_api.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    if serves {
        // For reflection, which needs no comments.
        compiler.include_source_info(false);
        let out = PathBuf::from(std::env::var("OUT_DIR")?);
        std::fs::write(
            out.join("core_api.bin"),
            compiler.encode_file_descriptor_set(),
        )?;
    }
    Ok(())
}
