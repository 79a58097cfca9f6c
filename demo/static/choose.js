// Buttons with data-n: a click sends the number to Python, arrow keys move between buttons, and redrawing keeps the focus.
let last = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-n]");
  if (!button) return;
  last = button.dataset.n;
  trigger("select", { n: Number(last) });
});
element.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const button = event.target.closest("button[data-n]");
  if (!step || !button) return;
  const buttons = [...element.querySelectorAll("button[data-n]")];
  const next = buttons[buttons.indexOf(button) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
  if (next.classList.contains("sentence")) next.click();
});
// On a narrow screen an answer begins below the question: bring it into view once, when it begins. Not that of a second model,
// which would take the first one away from its reader.
let begun = false;
watch("value", () => {
  const thinking = element.querySelector("section[data-state='thinking']") !== null;
  const second = element.closest("#before") && document.querySelector("#base section");
  if (thinking && !begun && !second && element.getBoundingClientRect().top > window.innerHeight - 120) {
    element.scrollIntoView({ behavior: "smooth", block: "start" });
  }
  begun = thinking;
  if (last === null) return;
  const button = element.querySelector(`button[data-n="${last}"]`);
  last = null;
  if (button) button.focus({ preventScroll: true });
});
