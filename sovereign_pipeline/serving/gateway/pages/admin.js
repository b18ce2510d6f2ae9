// The page with the state of every line that the caller may see. The state is reloaded every 10 seconds.
"use strict";

const SECONDS_BETWEEN_LOOKS = 10;
const STAGES = { production: "in production", staged: "staged", before: "kept for a rollback" };
const OUTCOMES = {
  open: ["open", ""],
  promote: ["not worse: may be promoted", "good"],
  inconclusive: ["inconclusive", "bad"],
  abort: ["worse: stopped", "bad"],
};
const REVIEWS = { "not due": ["not due", "good"], due: ["due", "bad"], overdue: ["overdue", "bad"] };
const MEASURES = {
  lost: "lost answers",
  given_up: "answers cancelled by callers",
  empty: "empty answers",
  looping: "answers that repeat themselves",
  other_script: "answers in another script than the request",
  slower: "slower",
  longer: "longer",
  shorter: "shorter",
  disliked: "thumbs down",
  personal_data: "personal data in answers",
};

const lines = document.getElementById("lines");
const behind = document.getElementById("behind");
let timer = 0;

async function look() {
  const state = await (await ask("/admin/state")).json();
  draw(state);
}

async function enter() {
  await look();
  clearInterval(timer);
  timer = setInterval(lookAgain, SECONDS_BETWEEN_LOOKS * 1000);
}

async function lookAgain() {
  let problem = "";
  try {
    await look();
  } catch (error) {
    problem = error.message;
  }
  behind.hidden = !problem;
  behind.dataset.say = problem;
  behind.textContent = say(problem);
}

function draw(state) {
  document.getElementById("engines").replaceChildren(...state.engines.map(drawnEngine));
  document.getElementById("at").textContent = `${state.at.slice(0, 16).replace("T", " ")} UTC`;
  lines.replaceChildren(...state.lines.map(drawnLine));
  if (!state.lines.length) lines.append(said("There is no line that you may see.", "p", "notice"));
}

function drawnEngine(engine) {
  const row = made("div", "", "row");
  const up = engine.computes;
  row.append(said(up ? "The engine computes" : "The engine does not compute", "span", `badge ${up ? "good" : "bad"}`));
  row.append(made("bdi", [engine.name, engine.base_model].filter(Boolean).join(" · "), "soft"));
  if (engine.problem) row.append(made("bdi", engine.problem, "soft"));
  if (engine.is_of_others) {
    row.append(said("This gateway did not start the vLLM server, so it cannot know who else has access and what is logged.", "span", "soft"));
  }
  return row;
}

function drawnLine(line) {
  const card = made("section", "", "card");
  const head = made("div", "", "row");
  head.append(madeText("h2", line.line));
  if (line.is_behind) head.append(said("A newer flag is not in force: see the log", "span", "badge bad"));
  card.append(head, facts(line), adapters(line.adapters));
  if (!line.is_readable) card.append(said("The counts of the staged adapter cannot be read: run sovereign adapters hold", "p", "notice"));
  if (line.hold) card.append(...hold(line.hold));
  return card;
}

function facts(line) {
  const list = made("dl");
  const who = line.rollout;
  entry(list, "Who gets what", ...(who ? shares(who) : [said("Nothing: the line has no flag.")]));
  if (who?.stopped) entry(list, "Stopped because", madeText("span", who.stopped));
  const review = line.review;
  if (review) {
    const [sentence, kind] = REVIEWS[review.state];
    entry(list, "Review", said(sentence, "span", `badge ${kind}`), number(review.on), made("bdi", review.adapter, "soft"));
  } else {
    entry(list, "Review", said("not known now", "span", "soft"));
  }
  const running = part(number(line.running), said("are computed"));
  entry(list, "Now", running, part(number(line.waiting), said("wait")));
  return list;
}

function shares(who) {
  const when = number(`#${who.change} · ${who.at.slice(0, 10)}`, "", "soft");
  const others = part(made("bdi", who.production || "—"), said(who.is_rolling_out ? "for everybody else" : "for everybody"));
  if (!who.is_rolling_out) return [others, when];
  const given = [];
  if (who.share) given.push(number(`${round(who.share * 100)} %`), said("of the users"));
  for (const group of who.groups) {
    if (given.length) given.push(said("and"));
    given.push(said("group"), madeText("span", group));
  }
  return [part(made("bdi", who.staged), said("for"), ...given), others, when];
}

function part(...parts) {
  const element = made("span", "", "part");
  element.append(...parts);
  return element;
}

function entry(list, name, ...parts) {
  const told = made("dd", "", "row");
  told.append(...parts);
  list.append(said(name, "dt"), told);
}

function adapters(rows) {
  const heads = ["Adapter", "Stage", "Level", "Loaded", "Registered", "Answers", "Lost", "Cancelled", "Thumbs"];
  return table(
    heads,
    rows.map((each) => {
      const name = made("td");
      name.append(made("bdi", each.adapter), document.createElement("br"), made("code", each.digest, "soft"));
      return [
        name,
        said(STAGES[each.stage], "td"),
        madeText("td", each.classification),
        cell(said(each.is_loaded ? "yes" : "no", "span", `badge ${each.is_loaded ? "good" : "bad"}`)),
        cell(each.registered ? number(each.registered) : made("span", "—"), age(each.days)),
        cell(number(each.complete)),
        cell(number(each.lost, each.lost ? "bad" : "")),
        cell(number(each.cancelled)),
        cell(number(`+${each.thumbs_up} −${each.thumbs_down}`)),
      ];
    }),
  );
}

function age(days) {
  const told = made("div", "", "soft");
  if (days === null) return told;
  told.append(number(days), " ", said(days === 1 ? "day" : "days"));
  return told;
}

function hold(state) {
  const [sentence, kind] = OUTCOMES[state.outcome];
  const head = made("h3");
  head.append(said("Trial of the staged adapter"), said(sentence, "span", `badge ${kind}`));
  const needed = made("dl");
  for (const each of state.needed) {
    const bar = made("progress");
    bar.max = each.needed;
    bar.value = Math.min(each.there, each.needed);
    const left = Math.max(0, Math.ceil(each.needed - each.there));
    const told = [bar, number(`${round(each.there)} / ${each.needed}`)];
    if (left) told.push(part(said("missing:"), number(left)));
    entry(needed, each.what, ...told);
  }
  entry(needed, "Feedback", number(`${state.rated[0]} / ${state.rated[1]}`), said("answers of the staged adapter and of the other", "span", "soft"));
  entry(needed, "Reports of severity 1", number(state.severe, state.severe ? "bad" : ""));
  const compared = table(
    ["Staged against the other", "Difference", "At most", "Margin"],
    state.compared.map((each) => [
      said(MEASURES[each.measure], "td"),
      cell(each.difference === null ? said("too few users", "span", "soft") : number(each.difference, each.is_worse ? "bad" : "")),
      cell(number(each.at_most ?? "")),
      cell(number(each.margin)),
    ]),
  );
  if (state.outcome === "open") return [head, needed, compared]; // the progress bars show what is missing
  const because = madeText("p", state.because, "soft");
  because.lang = "en";
  return [head, because, needed, compared];
}

function table(heads, rows) {
  const wide = made("div", "", "wide");
  wide.tabIndex = 0;
  wide.setAttribute("role", "group");
  wide.dataset.name = heads[0];
  wide.setAttribute("aria-label", say(heads[0]));
  const made_ = made("table");
  const top = made_.createTHead().insertRow();
  for (const each of heads) {
    const head = said(each, "th");
    head.scope = "col";
    top.append(head);
  }
  const body = made_.createTBody();
  for (const each of rows) body.insertRow().append(...each);
  wide.append(made_);
  return wide;
}

function cell(...parts) {
  const made_ = made("td");
  made_.append(...parts);
  return made_;
}

function number(value, badge = "", kind = "number") {
  const told = made("bdi", String(value), badge ? `${kind} badge ${badge}` : kind);
  told.dir = "ltr";
  return told;
}

function round(value) {
  return String(Math.round(value * 10) / 10);
}

signIn(enter);
