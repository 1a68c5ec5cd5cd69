const list = document.getElementById("notes");
const status = document.getElementById("status");
const form = document.querySelector("form");
let wait = 500; // ms

function show(state) {
  status.dataset.state = state;
  status.textContent = state;
}

function add(text) {
  const item = document.createElement("li");
  item.textContent = text;
  list.prepend(item);
  document.getElementById("none").hidden = true;
}

// What came while this page was not connected is on the server.
async function refresh() {
  const answer = await fetch(location.href);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const items = page.querySelectorAll("#notes li");
  list.replaceChildren(...items);
  document.getElementById("none").hidden = items.length > 0;
}

function connect() {
  const url = new URL("live", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  let before = []; // came while the list was fetched
  socket.onopen = async () => {
    wait = 500;
    show("live");
    await refresh();
    const known = new Set([...list.children].map((item) => item.textContent));
    before.filter((text) => !known.has(text)).forEach(add);
    before = null;
  };
  socket.onmessage = (event) => (before === null ? add : (text) => before.push(text))(event.data);
  socket.onclose = () => {
    show("offline");
    setTimeout(connect, wait * (0.5 + Math.random()));
    wait = Math.min(wait * 2, 15000);
  };
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const data = new FormData(form);
  form.reset();
  const answer = await fetch(form.action, { method: "POST", body: data, redirect: "manual" });
  if (!answer.ok && answer.type !== "opaqueredirect") {
    form.note.value = data.get("note");
  }
});

connect();
