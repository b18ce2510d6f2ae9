// What both pages share: two languages, and asking the gateway with a token that only this page's memory holds.
"use strict";

const arabic = JSON.parse(document.getElementById("arabic").textContent);
const page = { token: "", language: navigator.language.startsWith("ar") ? "ar" : "en" };

function say(sentence) {
  return (page.language === "ar" && arabic[sentence]) || sentence;
}

// An element with its text: the one way by which a text comes into the page.
function made(name, text = "", kind = "") {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  element.textContent = text;
  return element;
}

// The same, for texts of people, models and the institution: each runs in its own direction.
function madeText(name, text = "", kind = "") {
  const element = made(name, text, kind);
  element.dir = "auto";
  return element;
}

// A sentence that follows the page's language when it is changed.
function said(sentence, name = "span", kind = "") {
  const element = made(name, say(sentence), kind);
  element.dataset.say = sentence;
  return element;
}

function speak(language) {
  page.language = language;
  document.documentElement.lang = language;
  document.documentElement.dir = language === "ar" ? "rtl" : "ltr";
  for (const each of document.querySelectorAll("[data-say]")) each.textContent = say(each.dataset.say);
  for (const each of document.querySelectorAll("[data-hint]")) each.placeholder = say(each.dataset.hint);
  for (const each of document.querySelectorAll("[data-name]")) each.setAttribute("aria-label", say(each.dataset.name));
  const other = document.getElementById("language");
  other.textContent = language === "ar" ? "English" : "العربية";
  other.lang = language === "ar" ? "en" : "ar";
  document.title = document.querySelector("h1").textContent;
}

// Throws an Error with a sentence for people; `status` 0: nobody answered.
async function ask(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (page.token) headers.Authorization = `Bearer ${page.token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("The gateway is not reached."), { status: 0 });
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(body.error?.message || "The gateway refused."), { status: answer.status });
}

// Where the institution's proxy names the caller, no token is asked for.
function signIn(enter) {
  const form = document.getElementById("sign-in");
  const notice = document.getElementById("refused");
  async function tried() {
    try {
      await enter();
    } catch (error) {
      form.hidden = false;
      notice.hidden = error.status === 401 && !page.token;
      notice.textContent = say(error.message);
      page.token = "";
      return;
    }
    form.hidden = true;
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    page.token = form.elements.token.value.trim();
    form.elements.token.value = "";
    tried();
  });
  document.getElementById("language").addEventListener("click", () => speak(page.language === "ar" ? "en" : "ar"));
  speak(page.language);
  tried();
}
