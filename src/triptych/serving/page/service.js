// Questions to the service. The key, if it wants one, is kept here in memory and nowhere else.

import { askForKey } from "./key.js";

const MOST_PICTURES = 400;

let key = null;
let asking = null;
const pictures = new Map();

/** A refusal, in the service's own words. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.found);
    Object.assign(this, { status, problem });
  }
}

/** Ask for JSON. The query leaves out what is null; a body, if there is one, is posted. */
export async function ask(path, query = {}, { body, signal } = {}) {
  const given = Object.entries(query).filter(([, value]) => value != null);
  const end = given.length ? `?${new URLSearchParams(given)}` : "";
  const answer = await send(path + end, { method: body ? "POST" : "GET", body, signal });
  const content = parse(await answer.text());
  if (answer.ok && content) return content;
  throw new Refusal(answer.status, content?.error ?? {
    found: `an answer with status ${answer.status} that is not the service's`,
    wanted: "JSON", fix: "Look at what stands between this page and the service",
  });
}

/** Give the address of a picture for an image element. */
export function picture(path) {
  if (key === null) return Promise.resolve(`.${path}`);
  if (!pictures.has(path)) {
    const got = send(path).then((answer) => (answer.ok ? answer.blob() : Promise.reject(answer.status)));
    pictures.set(path, got.then(URL.createObjectURL));
    pictures.get(path).catch(() => pictures.delete(path));
    if (pictures.size > MOST_PICTURES) {
      const [oldest, address] = pictures.entries().next().value;
      pictures.delete(oldest);
      address.then(URL.revokeObjectURL, () => {});
    }
  }
  return pictures.get(path);
}

/** Read JSON; whole numbers too large for a number of this language, such as ids of 64 bits, stay texts. */
export function parse(text) {
  try {
    return JSON.parse(text, (_, value, context) =>
      typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "")
        ? context.source
        : value);
  } catch {
    return null;
  }
}

async function send(path, options = {}) {
  for (;;) {
    const used = key;
    let answer;
    try {
      answer = await fetch(`.${path}`, { ...options, headers: used === null ? {} : { "X-API-Key": used } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(0, {
        found: "the service does not answer", wanted: "a service that runs", fix: "Start it, or look at the network",
      });
    }
    if (answer.status !== 401) return answer;
    if (used === key) await newKey(used !== null);
  }
}

/** Ask once, however many questions wait for the key. */
function newKey(refused) {
  asking ??= askForKey(refused)
    .then((given) => {
      if (given === null) {
        throw new Refusal(401, {
          found: "the service answers only with its key", wanted: "the key", fix: "Ask whoever runs the service for it",
        });
      }
      key = given;
    })
    .finally(() => { asking = null; });
  return asking;
}
