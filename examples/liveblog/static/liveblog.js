// Shows the blog that the page's address names, and posts to it.

const slug = location.pathname.match(/^\/blogs\/([^/]+)$/)?.[1] ?? "launch";
const MAX_POSTS = 100;
const NO_BLOG = 4404;

const [title, status, form, text, hint, posts] = [
  "title", "status", "write", "text", "hint", "posts",
].map((id) => document.getElementById(id));

let newest = 0;
let tries = 0;

function show(post) {
  // After a reconnect, and for a post of just now, some come again. Numbers only grow
  // as long as the server runs; when it has been restarted its blog is empty.
  if (post.number <= newest) return;
  newest = post.number;
  const item = document.createElement("li");
  item.textContent = post.text;
  posts.prepend(item);
  while (posts.children.length > MAX_POSTS) posts.lastChild.remove();
}

function connect() {
  const url = new URL(`/blogs/${slug}/live`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.onopen = () => {
    tries = 0;
    newest = 0;
    posts.replaceChildren();
    status.textContent = "Live";
  };
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.error) hint.textContent = message.error;
    else show(message);
  };
  socket.onclose = ({ code }) => {
    if (code === NO_BLOG) {
      status.textContent = "No such blog";
      form.hidden = true;
      return;
    }
    status.textContent = "Reconnecting…";
    // Doubled each time up to 30 s, and anything below: not all come back at once.
    setTimeout(connect, Math.random() * Math.min(30_000, 500 * 2 ** tries++));
  };
}

form.onsubmit = async (event) => {
  event.preventDefault();
  hint.textContent = "";
  try {
    const answer = await fetch(`/blogs/${slug}/posts`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ text: text.value }),
    });
    if (answer.ok) text.value = "";
    else hint.textContent = (await answer.json()).error;
  } catch {
    hint.textContent = "Not posted: the server cannot be reached.";
  }
};

title.textContent = `Live blog: ${decodeURIComponent(slug)}`;
connect();
