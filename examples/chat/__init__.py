"""Chat rooms: names, who is typing, and a counter in a local variable."""

from pathlib import Path

from greenchannels import Group, http, static, websocket

HERE = Path(__file__).parent
MAX_NAME, MAX_TEXT = 40, 1000  # characters

#: The page loads its own files and opens sockets to its own server; nothing else.
POLICY = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"


def chat(socket, room):
    """Let somebody into a room, and tell the others who came and who left."""
    try:
        group = Group(f"chat.{room}")
    except ValueError:  # too long, or with control characters
        return socket.reject(404)
    name = " ".join(socket.query.get("name", "").split())[:MAX_NAME] or "Somebody"
    with group.joined(socket):
        group.send_json({"type": "join", "name": name}, exclude=socket)
        try:
            talk(socket, group, name)
        finally:
            group.send_json({"type": "leave", "name": name}, exclude=socket)


def talk(socket, group, name):
    """Pass on what somebody says, and that they are typing, until they leave."""
    count = 0
    for message in socket.json():
        match message:
            case {"type": "typing"}:
                group.send_json({"type": "typing", "name": name}, exclude=socket)
            case {"type": "text", "text": str(text)} if text.strip():
                count += 1
                said = {"name": name, "text": text[:MAX_TEXT], "count": count}
                group.send_json({"type": "text", **said}, exclude=socket)
                socket.send_json({"type": "sent", **said})


def page(request):
    """Return the page; its address names the room, as in ``/?room=lobby``."""
    return (HERE / "page.html").read_bytes(), {"Content-Security-Policy": POLICY}


routing = [
    http("/", page),
    static("/static", HERE / "static"),
    websocket("/chat/<room>", chat),
]
