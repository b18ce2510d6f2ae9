// The page's only script: it handles keys, keeps choices in the browser until they are recorded, and sends ballots.
"use strict";

const form = document.querySelector("form");
const rows = [...document.querySelectorAll("fieldset.row")];
const notice = document.getElementById("notice");
const kept = form && `draft ${form.id} ${form.dataset.pair}`;
let current = 0;
let sending = false;

function mark(place, focus = true) {
  current = Math.max(0, Math.min(rows.length - 1, place));
  rows.forEach((row, index) => row.classList.toggle("current", index === current));
  if (!focus) return;
  const inputs = [...rows[current].querySelectorAll("input")];
  (inputs.find((input) => input.checked) || inputs[0]).focus({ preventScroll: true });
  rows[current].scrollIntoView({ block: "nearest" });
}

function chosen() {
  return Object.fromEntries([...form.querySelectorAll("input:checked")].map((input) => [input.name, input.value]));
}

function choose(name, value) {
  const input = form.querySelector(`input[name="${name}"][value="${value}"]`);
  if (!input) return false;
  input.checked = true;
  sessionStorage.setItem(kept, JSON.stringify(chosen()));
  return true;
}

function say(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

function content(values) {
  if (form.id === "sign-in") return { token: location.hash.slice(1) };
  if (form.id === "guess") return values;
  const { preference, ...ratings } = values;
  return {
    preference,
    ratings: Object.fromEntries(Object.entries(ratings).map(([name, value]) => [name, Number(value)])),
  };
}

async function send() {
  if (sending) return;
  const values = chosen();
  const missing = rows.findIndex((row) => !(row.dataset.name in values));
  if (missing >= 0) {
    mark(missing);
    say(form.dataset.missing);
    return;
  }
  const path = { ballot: "/pairs/", guess: "/guesses/", "sign-in": "/sign-in" }[form.id] + (form.dataset.pair || "");
  const headers = { "Content-Type": "application/json", "X-Form-Token": form.dataset.formToken || "" };
  sending = true;
  say("");
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers,
      body: JSON.stringify(content(values)),
      signal: AbortSignal.timeout(15000),
    });
    // 409: a ballot is already recorded, perhaps by an attempt whose response was lost. The first ballot counts.
    if (answer.ok || answer.status === 409) {
      sessionStorage.removeItem(kept);
      location.replace("/");
      return;
    }
    say((await answer.json()).error);
  } catch {
    say(form.dataset.offline);
  }
  sending = false;
}

function pressed(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  // Keys are read by their position, so that they also work with an Arabic keyboard layout.
  const digit = /^(?:Digit|Numpad)([1-5])$/.exec(event.code);
  const letter = { KeyA: "a", KeyB: "b", KeyT: "tie" }[event.code];
  const deciding = form.id === "guess" ? "choice" : "preference";
  if (digit && rows.length && rows[current].dataset.name !== deciding) {
    choose(rows[current].dataset.name, digit[1]);
    mark(current + 1);
  } else if (letter && choose(deciding, letter)) {
    mark(rows.length - 1);
  } else if (rows.length && (event.code === "ArrowDown" || event.code === "ArrowUp")) {
    mark(current + (event.code === "ArrowDown" ? 1 : -1));
  } else if ((event.code === "Enter" || event.code === "NumpadEnter") && event.target.tagName !== "A") {
    send();
  } else {
    return;
  }
  event.preventDefault();
}

if (form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", pressed);
}

if (rows.length) {
  for (const [name, value] of Object.entries(JSON.parse(sessionStorage.getItem(kept) || "{}"))) choose(name, value);
  form.addEventListener("change", (event) => choose(event.target.name, event.target.value));
  rows.forEach((row, index) => row.addEventListener("focusin", () => mark(index, false)));
  const values = chosen();
  mark(Math.max(0, rows.findIndex((row) => !(row.dataset.name in values))), false);
}
