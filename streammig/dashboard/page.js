// Puts the sections that changed in their place; keeps what the reader has opened, and where the keyboard is.
const lost = document.getElementById("lost");
const say = text => { lost.hidden = !text; if (lost.textContent !== text) lost.textContent = text; };
const summaries = part => [...part.querySelectorAll("summary")];
const source = new EventSource("events");
source.addEventListener("parts", event => {
  say("");
  for (const [name, html] of Object.entries(JSON.parse(event.data))) {
    const part = document.getElementById(name);
    if (name === "state") { if (part.textContent !== html) part.textContent = html; continue; }
    const open = summaries(part).map(it => it.parentNode.open);
    const focus = summaries(part).indexOf(document.activeElement);
    part.innerHTML = html;
    summaries(part).forEach((it, at) => { it.parentNode.open = open[at] || false; });
    if (focus >= 0 && summaries(part)[focus]) summaries(part)[focus].focus({ preventScroll: true });
  }
});
source.addEventListener("end", () => {
  source.close();
  say("The process that served this page has ended. What you see is its last state.");
});
source.onerror = () => say("The connection is lost. What you see is not live; the page tries again.");
