// Buttons that copy what they stand beside. Without this file they stay hidden, and a click selects the text instead.
"use strict";

const told = document.createElement("p");
told.className = "aside";
told.setAttribute("role", "status");
document.body.append(told);

for (const button of document.querySelectorAll("button[data-copy]")) {
  const text = document.getElementById(button.dataset.copy);
  button.hidden = false;
  button.setAttribute("aria-label", `Copy ${button.dataset.what}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent + (text.matches("pre") ? "\n" : ""));
      button.textContent = "Copied";
      told.textContent = `Copied ${button.dataset.what}`;
    } catch {
      // No right to the clipboard: the person's own keys still work.
      getSelection().selectAllChildren(text);
      button.textContent = "Press Ctrl+C";
      told.textContent = "Selected: copy it with your keyboard";
    }
    setTimeout(() => {
      button.textContent = "Copy";
      told.textContent = "";
    }, 4000);
  });
}
