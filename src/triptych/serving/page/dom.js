// Elements, texts and figures. Whatever comes from the data becomes a text node or an attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

/** Make an element: attributes by name, listeners as functions by the name of their event. */
export const el = (tag, attributes, ...children) => furnish(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const svg = (tag, attributes, ...children) =>
  furnish(document.createElementNS(SVG, tag), attributes, children);

/** Set a custom property that the style sheet reads. */
export function styled(node, properties) {
  for (const [name, value] of Object.entries(properties)) node.style.setProperty(`--${name}`, value);
  return node;
}

/** Tell those who listen rather than look. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** A score with three digits that count. */
export function figure(value) {
  const size = Math.abs(value);
  const text = size >= 100 ? Math.round(size).toLocaleString("en") : size === 0 ? "0" : size.toPrecision(3);
  return value < 0 ? `−${text}` : text;
}

export const percent = (share) => `${share < 0 ? "−" : ""}${Math.round(Math.abs(share) * 100)} %`;

/** A modality, or another part of a score, as people call it. */
export const wordFor = (part) => ({ image: "picture", audio: "sound" })[part] ?? part;

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

/** Where a value lies between the lowest and highest of a list, zero being one of them: 0 to 1. */
export function scale(values) {
  const low = Math.min(0, ...values);
  const span = Math.max(0, ...values) - low || 1;
  return (value) => (value - low) / span;
}

/** A bar beside a number, which says the same. */
export const bar = (fraction) =>
  el("span", { class: "meter", "aria-hidden": "true" }, styled(el("i"), { share: fraction }));

const asked = new WeakMap(); // place -> what was asked for last

/** Show that something is awaited, then what it came to, or what went wrong and a way to try again.
 *
 * Whatever the order in which answers come, the place shows what was asked for last. */
export async function fill(place, waiting, make, signal) {
  asked.set(place, make);
  const late = () => signal?.aborted || asked.get(place) !== make;
  place.replaceChildren(...[waiting()].flat());
  place.setAttribute("aria-busy", "true");
  let shown;
  try {
    shown = [await make()].flat(Infinity);
  } catch (error) {
    if (late()) return;
    shown = [trouble(error, () => fill(place, waiting, make, signal))];
  }
  if (late()) return;
  place.replaceChildren(...shown.filter(Boolean));
  place.removeAttribute("aria-busy");
}

/** What was found, what was wanted, and what to do. */
export function trouble(error, again) {
  const { found, wanted, fix } = error.problem ?? {
    found: `the page met a fault: ${error.message}`, wanted: "an answer", fix: "Load the page again",
  };
  if (!error.problem) console.error(error);
  return el("div", { class: "trouble", role: "alert" },
    el("p", { class: "found" }, found.charAt(0).toUpperCase() + found.slice(1), "."),
    el("p", null, `Wanted: ${wanted}. ${fix}.`),
    again && el("button", { type: "button", class: "button", click: again }, "Try again"));
}
