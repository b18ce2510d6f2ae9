// Code of both pages: translation into two languages, and requests to the gateway. The token is only in memory.
"use strict";

const arabic = JSON.parse(document.getElementById("arabic").textContent);
const page = { token: "", language: navigator.language.startsWith("ar") ? "ar" : "en" };

function say(sentence) {
  return (page.language === "ar" && arabic[sentence]) || sentence;
}

// Create an element with text. All text is put into the page by this function.
function made(name, text = "", kind = "") {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  element.textContent = text;
  return element;
}

// Like `made`, for texts of people, models and the institution. Such texts may run from right to left.
function madeText(name, text = "", kind = "") {
  const element = made(name, text, kind);
  element.dir = "auto";
  return element;
}

// Create an element with a sentence that is translated when the page's language changes.
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

// Send a request. Throws an Error with a message for people. Its `status` is 0 if the gateway did not respond.
async function ask(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (page.token) headers.Authorization = `Bearer ${page.token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("The gateway cannot be reached."), { status: 0 });
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(body.error?.message || "The gateway rejected the request."), { status: answer.status });
}

// Ask for a token, unless the institution's proxy names the caller.
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
