"""A page of HTML, read."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a page loads, links to and says."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.ids, self.open, self.words = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "a":
            self.links.append(attributes["href"])
        else:
            self.loads += [attributes[key] for key in ("src", "href") if key in attributes]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)
