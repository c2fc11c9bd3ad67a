// Brings the parts marked data-live up to date whenever something happens in the sandbox.
const refresh = async () => {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(part.id);
    const sounds = [...part.querySelectorAll("audio")].some((audio) => !audio.paused);
    const busy = sounds || part.contains(document.activeElement);
    if (now && !busy && now.innerHTML !== part.innerHTML) part.replaceChildren(...now.childNodes);
  }
};
new EventSource("/sandbox/events").onmessage = refresh;
// Remaining lives count down without anything happening.
setInterval(refresh, 15000);
