from html.parser import HTMLParser

from mmpo_train.tables import Table
from sweeps.reporting.page import Heading, Listing, Picture, Sheet, Text, as_html, as_markdown

HOSTILE = "<script src='https://example.com/x.js'></script>\" onload=\"alert(1)"


class Elements(HTMLParser):
    """The page's elements with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def page_of(tmp_path, text):
    picture = tmp_path / "one.png"
    picture.write_bytes(b"\x89PNG")
    blocks = [Heading(1, text), Text(text), Listing((text,)), Picture(picture, text, text)]
    blocks += [Sheet(name, Table(text, (text,), [(text,)]), answers=name == "answers") for name in ("t", "answers")]
    return Elements(as_html(text, blocks))


def test_a_page_loads_nothing_and_holds_no_element_of_what_it_tells(tmp_path):
    plain, hostile = page_of(tmp_path, "plain"), page_of(tmp_path, HOSTILE)
    shape = [(tag, sorted(attributes)) for tag, attributes in plain.elements]
    assert [(tag, sorted(attributes)) for tag, attributes in hostile.elements] == shape
    assert not {"script", "link", "iframe"} & {tag for tag, _ in plain.elements}
    sources = [attributes["src"] for _, attributes in hostile.elements if "src" in attributes]
    assert sources == ["data:image/png;base64,iVBORw=="]
    policy = [attributes["content"] for _, attributes in hostile.elements if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert hostile.text.count(HOSTILE) == plain.text.count("plain")


def test_tables_are_escaped_in_both_forms():
    table = Sheet("t", Table("caption with `code`", ("a", "b"), [("x|y", "<script>")]))
    assert "| x\\|y | &lt;script> |" in as_markdown([table]) and "|---|---:|" in as_markdown([table])
    page = as_html("a & b", [table])
    assert '<td class="text">x|y</td><td>&lt;script&gt;</td>' in page and "<script>" not in page
    assert "<title>a &amp; b</title>" in page and "caption with <code>code</code>" in page


def test_an_answer_keeps_its_backticks_and_its_lines():
    table = Sheet("answers", Table("", ("prompt", "A"), [("`x`", "one\ntwo")], words=(0, 1)), answers=True)
    page = as_html("", [table])
    assert '<td class="answer text">`x`</td><td class="answer text">one\ntwo</td>' in page
    assert '<th class="text">prompt</th><th class="text">A</th>' in page
    assert "| `x` | one<br>two |" in as_markdown([table])
