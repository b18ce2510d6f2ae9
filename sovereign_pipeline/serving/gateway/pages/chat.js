// The page for trying a line. Each question sends the whole conversation, which is stored only in the page's memory.
"use strict";

const REASONS = {
  wrong: "It is wrong",
  invented: "It is made up",
  incomplete: "Something is missing",
  off_topic: "It is off topic",
  wrong_language: "It is in another language",
  tone: "We would not write like this",
  personal_data: "It contains personal data",
  harmful: "It does harm",
  other: "Something else",
};
const SEVERITIES = ["No harm", "1: must not happen again", "2: serious", "3: minor"];

const [model, turns, question, send, stop] = ["model", "turns", "question", "send", "stop"].map((id) =>
  document.getElementById(id),
);
const levels = new Map();
const kept = new Set();
let messages = [];
let running = null;

async function enter() {
  const { data } = await (await ask("/v1/models")).json();
  levels.clear();
  kept.clear();
  model.replaceChildren();
  for (const each of data) {
    levels.set(each.id, each.metadata.classification);
    if (each.metadata.transcript) kept.add(each.id);
    model.append(made("option", each.id));
  }
  showLevel();
  for (const id of ["choice", "anew", "ask"]) document.getElementById(id).hidden = data.length === 0;
  document.getElementById("nothing").hidden = data.length > 0;
  document.getElementById("trying").hidden = false;
  question.focus();
}

function showLevel() {
  document.getElementById("level").textContent = levels.get(model.value) || "";
  document.getElementById("kept").hidden = !kept.has(model.value);
}

function beginAnew() {
  running?.abort();
  messages = [];
  turns.replaceChildren();
  question.focus();
}

// Yield the events of a stream as objects, and `null` for its regular end.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const content = part.replace(/^data: /, "");
      yield content === "[DONE]" ? null : JSON.parse(content);
    }
  }
}

async function answer(asked) {
  const controller = (running = new AbortController());
  const conversation = messages;
  turns.append(madeText("li", asked, "asked text"));
  const turn = made("li", "", "answered");
  const text = madeText("div", "", "text");
  turn.append(text);
  turns.append(turn);
  turns.setAttribute("aria-busy", "true");
  turn.scrollIntoView({ block: "end" });
  const facts = { id: "", adapter: "", end: "", problem: "" };
  try {
    const sent = [...conversation, { role: "user", content: asked }];
    const body = JSON.stringify({ model: model.value, messages: sent, stream: true });
    const response = await ask("/v1/chat/completions", { method: "POST", body, signal: controller.signal });
    facts.problem = "The answer ended before it was complete.";
    for await (const event of events(response.body)) {
      if (event === null) {
        facts.problem = "";
        break;
      }
      if (event.error) throw new Error(event.error.message);
      facts.id = event.id;
      facts.adapter = event.system_fingerprint;
      const [choice] = event.choices;
      text.textContent += choice.delta.content || "";
      if (choice.finish_reason === "length") facts.end = "cut at the maximum length";
      if (choice.finish_reason === "content_filter") facts.end = "stopped because of personal data";
      if (atEnd()) turn.scrollIntoView({ block: "end" });
    }
  } catch (error) {
    facts.problem = error.name === "AbortError" ? "" : error.message;
    if (error.name === "AbortError") facts.end = "stopped";
  }
  if (text.textContent && conversation === messages) {
    messages.push({ role: "user", content: asked }, { role: "assistant", content: text.textContent });
  }
  if (running === controller) running = null;
  finish(turn, text, facts);
}

function atEnd() {
  return window.innerHeight + window.scrollY > document.documentElement.scrollHeight - 160;
}

function finish(turn, text, facts) {
  turns.setAttribute("aria-busy", "false");
  if (!text.textContent) text.hidden = Boolean(facts.problem);
  if (!text.textContent && !facts.problem) text.append(said("(no answer)"));
  if (facts.problem) {
    const notice = said(facts.problem, "p", "notice");
    notice.setAttribute("role", "alert");
    turn.append(notice);
  }
  if (facts.id) turn.append(rating(facts));
  if (atEnd()) turn.scrollIntoView({ block: "end" });
}

function rating(facts) {
  const box = made("div");
  const row = made("div", "", "row");
  const adapter = made("bdi", facts.adapter, "soft");
  row.append(adapter);
  if (facts.end) row.append(said(facts.end, "span", "soft"));
  const result = made("span", "", "soft");
  result.setAttribute("role", "status");
  const report = reportForm(facts, result);
  const up = pressed("Good answer", () => {
    report.hidden = true;
    rate(facts, { thumb: "up" }, result);
  });
  const down = pressed("Bad answer", () => {
    report.hidden = !report.hidden;
    if (!report.hidden) report.scrollIntoView({ block: "nearest" });
  });
  row.append(up, down, result);
  box.append(row, report);
  return box;
}

function pressed(sentence, act) {
  const element = said(sentence, "button", "quiet");
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

function reportForm(facts, result) {
  const form = made("form", "", "report row");
  form.hidden = true;
  const reason = options(Object.entries(REASONS), "Reason");
  const severity = options(SEVERITIES.map((each, number) => [String(number), each]), "Severity");
  const submit = said("Report", "button");
  form.append(reason, severity, submit);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    form.hidden = true;
    rate(facts, { thumb: "down", reason: reason.value, severity: Number(severity.value) }, result);
  });
  return form;
}

function options(entries, name) {
  const select = made("select");
  select.dataset.name = name;
  select.setAttribute("aria-label", say(name));
  for (const [value, sentence] of entries) {
    const option = said(sentence, "option");
    option.value = value;
    select.append(option);
  }
  return select;
}

async function rate(facts, feedback, result) {
  let told = "Thank you. Your feedback was counted.";
  try {
    await ask("/v1/feedback", { method: "POST", body: JSON.stringify({ id: facts.id, ...feedback }) });
  } catch (error) {
    told = error.message;
  }
  result.dataset.say = told;
  result.textContent = say(told);
}

async function asked() {
  const text = question.value.trim();
  if (running || !text) return;
  question.value = "";
  send.hidden = true;
  stop.hidden = false;
  await answer(text);
  if (running) return;
  send.hidden = false;
  stop.hidden = true;
  question.focus();
}

document.getElementById("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  asked();
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    asked();
  }
});
stop.addEventListener("click", () => running?.abort());
model.addEventListener("change", () => {
  showLevel();
  beginAnew();
});
document.getElementById("anew").addEventListener("click", beginAnew);
signIn(enter);
