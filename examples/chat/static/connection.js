// A WebSocket that comes back: it reconnects by itself, ever more patiently.

export const FIRST_DELAY = 500;    // ms; bound of the first wait
export const LONGEST_DELAY = 30000;
export const STABLE_AFTER = 5000;  // ms open, after which waiting starts anew
const CONNECT_TIMEOUT = 10000;     // ms
const TICK = 250;                  // ms between two looks at the clock

// Full jitter: anything between nothing and a bound that doubles. Clients that
// were cut off together do not come back together.
export function backoff(attempt, random = Math.random) {
  return random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** attempt);
}

// States: "connecting", "connected", "waiting" (with the milliseconds until the
// next attempt) and "closed". `onstate(state, milliseconds)`, `onmessage(data)`.
export class Connection {
  constructor(url, { onstate, onmessage }) {
    this.url = url;
    this.onstate = onstate;
    this.onmessage = onmessage;
    this.state = "closed";
    this.socket = null;
    this.attempt = 0;
    this.retry = () => {
      if (this.state === "waiting") this.open();
    };
    this.look = () => {
      if (document.visibilityState === "visible") this.retry();
    };
    addEventListener("online", this.retry);
    document.addEventListener("visibilitychange", this.look);
  }

  open() {
    clearTimeout(this.timer);
    const socket = this.socket = new WebSocket(this.url);
    this.timer = setTimeout(() => this.lost(socket), CONNECT_TIMEOUT);
    socket.onopen = () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => { this.attempt = 0; }, STABLE_AFTER);
      this.change("connected");
    };
    socket.onmessage = (event) => this.onmessage(event.data);
    socket.onclose = () => this.lost(socket);
    this.change("connecting");
  }

  // Sends, or says that it could not.
  send(data) {
    if (this.state !== "connected" || this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(data);
    return true;
  }

  // Give the present socket up, for one that is silent is as good as gone.
  drop() {
    if (this.state === "connected") this.lost(this.socket);
  }

  close() {
    removeEventListener("online", this.retry);
    document.removeEventListener("visibilitychange", this.look);
    this.forget();
    this.change("closed");
  }

  lost(socket) {
    if (socket !== this.socket) return;
    this.forget();
    this.due = Date.now() + backoff(this.attempt++);
    this.wait();
  }

  wait() {
    const left = this.due - Date.now();
    if (left <= 0) return this.open();
    this.timer = setTimeout(() => this.wait(), Math.min(left, TICK));
    this.change("waiting", left);
  }

  forget() {
    clearTimeout(this.timer);
    const socket = this.socket;
    if (!socket) return;
    this.socket = null;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  change(state, left = 0) {
    this.state = state;
    this.onstate(state, left);
  }
}
