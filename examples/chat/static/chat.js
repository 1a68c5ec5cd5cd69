// The page of the chat: a door, and behind it a room.

import { Connection } from "./connection.js";

const MAX_TEXT = 1000;         // characters; the server cuts there
const MAX_SHOWN = 300;         // messages kept on the page
const TYPING_EVERY = 2000;     // ms between two "I am typing"
const TYPING_LASTS = 4000;     // ms that one is shown to others
const ANSWER_TIMEOUT = 10000;  // ms for the server to confirm a message
const GROUPED_WITHIN = 120000; // ms in which one person's messages stand together
const TONES = 6;               // colours of people; see chat.css

const byId = (id) => document.getElementById(id);
const [door, enter, nameBox, roomBox, chat] = ["door", "enter", "name", "room", "chat"].map(byId);
const [here, me, count, retry, leave] = ["here", "me", "count", "retry", "leave"].map(byId);
const [status, statusText, statusSaid] = ["status", "status-text", "status-said"].map(byId);
const [scroller, messages, pending, newer] = ["scroller", "messages", "pending", "newer"].map(byId);
const [compose, typingLine, text, hint] = ["compose", "typing", "text", "hint"].map(byId);

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });

let connection = null;
let name = "";
let room = "";
let unanswered = [];      // texts that the server has not confirmed: {text, item}
let answerTimer = 0;
let typing = new Map();   // who is typing: name -> timer
let toldTyping = 0;       // when the server was last told that we are
let stuck = true;         // whether the newest message is in view
let size = "";            // of the scroller, when it was last looked at
let unread = 0;
let last = null;          // who said the last message, and when
let everConnected = false;

// Everything a peer wrote goes through here: text, never markup.
function element(tag, className, content) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = content ?? "";
  return made;
}

// The door.

function clean(value, length) {
  const spaced = value.replace(/[\p{Cc}\s]+/gu, " ").trim();
  return [...spaced].slice(0, length).join("").trim();
}

function showDoor() {
  chat.hidden = true;
  door.hidden = false;
  document.title = "Chat";
  nameBox.value = stored(localStorage, "name");
  (nameBox.value ? roomBox : nameBox).focus();
}

function arrive() {
  if (connection) goOut();
  const asked = clean(new URLSearchParams(location.search).get("room") ?? "", roomBox.maxLength);
  if (asked) roomBox.value = asked;
  // A page that is loaded again goes on; a link that is followed asks for a name.
  nameBox.value = stored(sessionStorage, "name");
  if (asked && enter.checkValidity()) goIn();
  else showDoor();
}

enter.addEventListener("submit", (event) => {
  event.preventDefault();
  const url = new URL(location.href);
  url.search = new URLSearchParams({ room: clean(roomBox.value, roomBox.maxLength) });
  if (url.href !== location.href) history.pushState(null, "", url);
  goIn();
});

leave.addEventListener("click", () => {
  goOut();
  const url = new URL(location.href);
  url.search = "";
  history.pushState(null, "", url);
  showDoor();
});

addEventListener("popstate", arrive);

// What a browser that stores nothing forgets, it forgets; the chat works all the same.
function stored(storage, key, value) {
  try {
    if (value !== undefined) storage.setItem(key, value);
    return storage.getItem(key) ?? "";
  } catch {
    return value ?? "";
  }
}

// The room.

function goIn() {
  name = clean(nameBox.value, nameBox.maxLength);
  room = clean(roomBox.value, roomBox.maxLength);
  stored(sessionStorage, "name", name);
  stored(localStorage, "name", name);
  here.textContent = room;
  me.textContent = name;
  document.title = `${room} · Chat`;
  messages.replaceChildren();
  last = null;
  everConnected = false;
  door.hidden = true;
  chat.hidden = false;
  text.value = stored(sessionStorage, `draft ${room}`);
  say("");
  fit();
  text.focus();
  scrollDown();
  const url = new URL(`chat/${encodeURIComponent(room)}`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams({ name });
  connection = new Connection(url, { onstate: showState, onmessage: take });
  connection.open();
}

function goOut() {
  giveBack();
  connection.close();
  connection = null;
}

function showState(state, left) {
  const seconds = Math.ceil(left / 1000);
  const offline = state === "waiting" && !navigator.onLine;
  const shown = offline ? "offline" : state;
  const words = {
    connecting: ["Connecting…", ""],
    connected: ["Connected", "Connected"],
    waiting: [`Reconnecting in ${seconds} s`, "Not connected. Reconnecting."],
    offline: ["Offline", "You are offline."],
    closed: ["Not connected", ""],
  }[shown];
  const before = status.dataset.state;
  status.dataset.state = shown;
  statusText.textContent = words[0];
  // Said once: a screen reader does not count the seconds aloud.
  if (words[1] && statusSaid.textContent !== words[1]) statusSaid.textContent = words[1];
  if (state !== "connecting") retry.hidden = state !== "waiting";
  if (state === "connected") {
    count.value = 0;
    toldTyping = 0;
    note(everConnected ? "You are back" : "You joined");
    everConnected = true;
    say("");
  } else if (before === "connected") {
    forgetTyping();
    if (giveBack()) say("This may not have arrived. It is yours to send again.", "warn");
    if (everConnected && state === "waiting") note("The connection was lost");
  }
}

retry.addEventListener("click", () => {
  connection.retry();
  text.focus();
});

function take(data) {
  const message = JSON.parse(data);
  switch (message.type) {
    case "text":
      stopTyping(message.name);
      add(bubble(message.name, message.text, false));
      break;
    case "sent":
      unanswered.shift()?.item.remove();
      watchAnswers();
      count.value = message.count;
      add(bubble(message.name, message.text, true), true);
      break;
    case "typing":
      showTyping(message.name);
      break;
    case "join":
      note("joined", message.name);
      break;
    case "leave":
      stopTyping(message.name);
      note("left", message.name);
      break;
  }
}

// Messages.

function bubble(who, what, own) {
  const now = Date.now();
  const item = element("li", own ? "message own" : "message");
  if (last?.who === who && last.own === own && now - last.when < GROUPED_WITHIN) {
    item.classList.add("same");
  }
  last = { who, own, when: now };
  const body = element("div", "body");
  const head = element("p", "head");
  const author = element("bdi", own ? "author unseen" : "author", own ? "You" : who);
  const time = element("time", "time", clock.format(now));
  time.dateTime = new Date(now).toISOString();
  head.append(author, " ", time);
  const said = element("p", "said", what);
  said.dir = "auto";
  body.append(head, said);
  if (!own) {
    const face = element("span", "face", ([...who][0] ?? "?").toUpperCase());
    face.ariaHidden = "true";
    item.dataset.tone = toneOf(who);
    item.append(face);
  }
  item.append(body);
  return item;
}

function toneOf(who) {
  let sum = 7;
  for (const letter of who) sum = (sum * 31 + letter.codePointAt(0)) % 9973;
  return sum % TONES;
}

function note(what, who) {
  const item = element("li", "note", who ? "" : what);
  if (who) item.append(element("bdi", "", who), ` ${what}`);
  last = null;
  add(item);
}

function add(item, own = false) {
  messages.append(item);
  while (messages.children.length > MAX_SHOWN) messages.firstChild.remove();
  if (stuck || own) {
    scrollDown();
  } else if (item.classList.contains("message")) {
    unread += 1;
    newer.textContent = unread === 1 ? "1 new message" : `${unread} new messages`;
    newer.hidden = false;
  }
}

function scrollDown() {
  scroller.scrollTop = scroller.scrollHeight;
  stuck = true;
  unread = 0;
  newer.hidden = true;
}

scroller.addEventListener("scroll", () => {
  if (sizeOf(scroller) !== size) return; // the window did that, not the reader
  stuck = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
  if (stuck) {
    unread = 0;
    newer.hidden = true;
  }
});

newer.addEventListener("click", () => {
  scrollDown();
  text.focus();
});

// A keyboard that slides in, or a box that grows, hides nothing of the end.
new ResizeObserver(() => {
  size = sizeOf(scroller);
  if (stuck) scrollDown();
}).observe(scroller);

function sizeOf(box) {
  return `${box.clientWidth}x${box.clientHeight}`;
}

// Who is typing.

function showTyping(who) {
  clearTimeout(typing.get(who));
  typing.set(who, setTimeout(() => stopTyping(who), TYPING_LASTS));
  drawTyping();
}

function stopTyping(who) {
  clearTimeout(typing.get(who));
  if (typing.delete(who)) drawTyping();
}

function forgetTyping() {
  for (const who of [...typing.keys()]) stopTyping(who);
}

function drawTyping() {
  const names = [...typing.keys()].map((who) => element("bdi", "", who));
  const parts = {
    0: [],
    1: [names[0], " is typing…"],
    2: [names[0], " and ", names[1], " are typing…"],
  }[names.length] ?? ["Several people are typing…"];
  typingLine.replaceChildren(...parts);
}

// Writing.

text.addEventListener("input", () => {
  fit();
  stored(sessionStorage, `draft ${room}`, text.value);
  if (connection.state === "connected") say(...tooLong());
  const now = Date.now();
  if (!text.value.trim() || now - toldTyping < TYPING_EVERY) return;
  if (connection.send(JSON.stringify({ type: "typing" }))) toldTyping = now;
});

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  compose.requestSubmit();
});

compose.addEventListener("submit", (event) => {
  event.preventDefault();
  const what = text.value.trim();
  text.focus();
  if (!what) return;
  if (tooLong().length) {
    say(...tooLong());
  } else if (!connection.send(JSON.stringify({ type: "text", text: what }))) {
    say("Not connected. Your message stays here until you can send it.", "warn");
  } else {
    write("");
    toldTyping = 0;
    const item = element("li", "message own waiting");
    const body = element("div", "body");
    const said = element("p", "said", what);
    said.dir = "auto";
    body.append(said);
    item.append(body);
    pending.append(item);
    unanswered.push({ text: what, item });
    if (unanswered.length === 1) watchAnswers();
    say("");
    scrollDown();
  }
});

// What there is to say of a text that the server would cut, and how.
function tooLong() {
  const excess = [...text.value.trim()].length - MAX_TEXT;
  return excess > 0 ? [`Too long by ${excess} ${excess === 1 ? "character" : "characters"}.`, "warn"] : [];
}

// A server that confirms nothing is not there any more, whatever the socket says.
function watchAnswers() {
  clearTimeout(answerTimer);
  if (unanswered.length) answerTimer = setTimeout(() => connection.drop(), ANSWER_TIMEOUT);
}

// Put what was not confirmed back into the box; return whether there was any.
function giveBack() {
  const texts = unanswered.map((one) => one.text);
  unanswered = [];
  pending.replaceChildren();
  clearTimeout(answerTimer);
  if (!texts.length) return false;
  write([...texts, text.value].filter(Boolean).join("\n"));
  return true;
}

function write(value) {
  text.value = value;
  stored(sessionStorage, `draft ${room}`, value);
  fit();
}

function fit() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + text.offsetHeight - text.clientHeight}px`;
}

function say(words = "", kind = "") {
  hint.textContent = words;
  hint.dataset.kind = kind;
}

arrive();
