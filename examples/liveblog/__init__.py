"""A live blog: posts come by HTTP and are shown at once to all who read."""

import itertools
from pathlib import Path

from greenchannels import Group, http, static, websocket
from greenchannels.generic.websocket import JsonWebsocketConsumer

HERE = Path(__file__).parent
MAX_TEXT, MAX_POSTS = 1000, 100

#: The page loads its own files and opens sockets to its own server; nothing else.
POLICY = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"

blogs = {"launch": [], "garden": []}  # in a real site, tables of your database
numbers = itertools.count(1)


class Reader(JsonWebsocketConsumer):
    """Shows one blog to one reader."""

    groups = ["liveblog.{slug}"]  # joined before connect: no post is missed

    def connect(self):
        """Send what there is; a path without a blog is answered and closed."""
        self.accept()
        posts = blogs.get(self.params["slug"])
        if posts is None:
            self.send_json({"error": "There is no such blog."}, close=4404)
        else:
            for post in list(posts):
                self.send_json(post)

    def blog_post(self, event):
        """Show a new post; one of just now may have been sent by ``connect``, too."""
        self.send_json(event["post"])

    def bad_message(self, error):
        """Readers only read: what they say is answered, whatever it is."""
        self.receive_json(None)

    def receive_json(self, content):
        """See ``bad_message``."""
        self.send_json({"error": "Post by HTTP."}, close=1008)


def add(request, slug):
    """Take a post as JSON, which no form of another site can send."""
    if slug not in blogs:
        return {"error": "There is no such blog."}, 404
    content = request.get_json(silent=True)
    text = content.get("text") if isinstance(content, dict) else None
    if not isinstance(text, str) or not text.strip():
        return {"error": "A post has a text."}, 400
    post = {"number": next(numbers), "text": text.strip()[:MAX_TEXT]}
    blogs[slug].append(post)
    del blogs[slug][:-MAX_POSTS]
    Group(f"liveblog.{slug}").send({"type": "blog.post", "post": post})
    return post, 201


def page(request, slug="launch"):
    """Return the page of any blog; its script asks for the one of its address."""
    return (HERE / "page.html").read_bytes(), {"Content-Security-Policy": POLICY}


routing = [
    http("/", page),
    http("/blogs/<slug>", page),
    http("/blogs/<slug>/posts", add, methods=["POST"]),
    websocket("/blogs/<slug>/live", Reader),
    static("/static", HERE / "static"),
]
