// The dialog that asks for the service's key.

import { el } from "./dom.js";

/** Ask for the key; null if nobody wants to give one. */
export function askForKey(refused) {
  const dialog = document.getElementById("key");
  const field = el("input", {
    id: "key-field", type: "password", autocomplete: "off", spellcheck: "false", required: true,
    pattern: "\\s*[!-~]+\\s*", title: "ASCII characters without blanks", "aria-describedby": "key-note",
  });
  const said = refused ? "That key was refused. " : "";
  let given = null;
  const take = (event) => {
    event.preventDefault();
    given = field.value.trim();
    dialog.close();
  };
  dialog.replaceChildren(
    el("form", { submit: take },
      el("h2", { id: "key-title" }, "This service wants a key"),
      el("p", { id: "key-note", role: refused ? "alert" : null },
        refused && el("b", null, said), "It stays in this page's memory until the page is closed or loaded again."),
      el("label", { for: "key-field" }, "Key"),
      field,
      el("div", { class: "buttons" },
        el("button", { type: "submit", class: "button main" }, "Use it"),
        el("button", { type: "button", class: "button", click: () => dialog.close() }, "Not now"))));
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.replaceChildren();
      resolve(given);
    }, { once: true });
  });
}
