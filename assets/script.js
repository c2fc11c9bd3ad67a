// Keeps the list of messages as the server shows it, without a reload. Everything on the page works
// without this as well.
"use strict";

(() => {
  const list = document.getElementById("messages");
  const live = document.getElementById("live");
  if (!list || !live) return;

  const RETRY_MS = 30_000;
  const WAITING_MS = 4_000;

  let refreshing = null;
  let isStale = false;

  // One at a time; what comes meanwhile is fetched afterwards.
  function refresh() {
    isStale = true;
    refreshing ??= (async () => {
      try {
        while (isStale) {
          isStale = false;
          const answer = await fetch(location.pathname + location.search, { cache: "no-store" });
          show(new DOMParser().parseFromString(await answer.text(), "text/html"), answer.ok);
        }
      } catch {
        // The next event or sign of life tries again.
      } finally {
        refreshing = null;
      }
    })();
    return refreshing;
  }

  function show(page, isOk) {
    if (!page.getElementById("messages")) {
      // Signed out, or the service has a word to say: let it. A fault is no reason to lose the page.
      if (isOk) location.reload();
      return;
    }
    document.title = page.title;
    for (const id of ["routing", "unread", "empty", "pages", "missed"]) {
      replace(document.getElementById(id), page.getElementById(id));
    }
    const had = list.children.length;
    const fresh = [...page.getElementById("messages").children];
    const ids = new Set(fresh.map((row) => row.id));
    for (const row of [...list.children]) {
      if (!ids.has(row.id)) remove(row);
    }
    let arrived = false;
    let before = list.firstElementChild;
    for (const row of fresh) {
      const old = document.getElementById(row.id);
      if (old) {
        update(old, row);
        before = old.nextElementSibling;
      } else {
        arrived ||= row.classList.contains("new");
        list.insertBefore(document.adoptNode(row), before);
      }
    }
    if (arrived && (had || fresh.length === 1)) say(live.dataset.arrived);
    keepWaiting();
  }

  // The player stays as it is: it may be playing.
  function update(old, row) {
    old.className = row.className;
    replace(old.querySelector(".facts"), row.querySelector(".facts"));
    replace(old.querySelector(".mark"), row.querySelector(".mark"));
  }

  function replace(old, fresh) {
    if (!old || !fresh || old.outerHTML === fresh.outerHTML) return;
    const hadFocus = old.contains(document.activeElement);
    const adopted = document.adoptNode(fresh);
    old.replaceWith(adopted);
    if (hadFocus) adopted.querySelector("button, a, summary")?.focus();
  }

  function remove(row) {
    if (row.contains(document.activeElement)) {
      document.getElementById("messages-head").focus();
    }
    row.remove();
  }

  function say(text) {
    live.textContent = "";
    requestAnimationFrame(() => { live.textContent = text; });
  }

  async function send(form) {
    try {
      const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
      // A message that is gone already is what a deletion wants.
      if (!answer.ok && answer.status !== 404) throw new Error(String(answer.status));
      await refresh();
    } catch {
      say(live.dataset.failed);
      await refresh();
    }
  }

  list.addEventListener("submit", (event) => {
    event.preventDefault();
    send(event.target);
  });

  // Who plays a message has heard it; and one voice at a time.
  list.addEventListener("play", (event) => {
    for (const audio of list.querySelectorAll("audio")) {
      if (audio !== event.target) audio.pause();
    }
    const row = event.target.closest("li.new");
    if (row) send(row.querySelector("form.mark"));
  }, true);

  let waiting = 0;
  function keepWaiting() {
    clearTimeout(waiting);
    if (document.querySelector("#routing[data-waits]")) waiting = setTimeout(refresh, WAITING_MS);
  }

  let events = null;
  function watch() {
    events?.close();
    events = new EventSource("/api/v1/events");
    for (const name of ["message.stored", "message.updated", "message.deleted"]) {
      events.addEventListener(name, refresh);
    }
    // What happened while nobody watched.
    events.addEventListener("open", refresh);
    events.addEventListener("error", () => {
      if (events.readyState === EventSource.CLOSED) {
        setTimeout(() => { refresh(); watch(); }, RETRY_MS);
      }
    });
  }
  addEventListener("pagehide", () => events?.close());
  // By "back", as it was left: perhaps by somebody who has signed out since.
  addEventListener("pageshow", (event) => { if (event.persisted) { refresh(); watch(); } });

  const zone = document.getElementById("zone");
  const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && here && here !== "UTC" && here !== "Etc/UTC") {
    zone.elements.time_zone.value = here;
    zone.querySelector("span").textContent = here.split("/").pop().replaceAll("_", " ");
    zone.hidden = false;
  }

  keepWaiting();
  watch();
})();
