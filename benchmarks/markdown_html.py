"""Markdown of this suite's own as sections of one self-contained HTML page.

Tables get header cells with scopes, a caption, and a part of their own to scroll in; pictures are inlined. Links to
other files of the repository are left as their text. Values of records may stand in the text: HTML in them is escaped.
"""

from base64 import b64encode
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

WHOLE = 24  # characters, at most, of a table's cell that is not broken over lines


class Section(NamedTuple):
    """What stands below a heading of the first or second rank."""

    title: str
    anchor: str
    body: Markup


def sections(text: str, pictures: dict[str, bytes], parts: dict[str, str]) -> list[Section]:
    """`pictures` are SVG, by the names of their files; `parts` are HTML in place of paragraphs that are their names."""
    markdown = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    tokens = markdown.parse(text[text.index("# ") :])
    starts = [place for place, token in enumerate(tokens) if token.type == "heading_open" and token.tag in ("h1", "h2")]
    found = []
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        title, state = tokens[start + 1].content, {"pictures": pictures, "parts": parts}
        html = markdown.renderer.render(tokens[start + 3 : end], markdown.options, state | {"title": title})
        found.append(Section(title, title.lower().replace(" ", "-"), Markup(html)))
    return found


def breakable(text: str) -> Markup:
    """`text` as HTML that may be broken after underscores."""
    return Markup("_<wbr>").join(text.split("_"))


class _Renderer(RendererHTML):
    """A method for each kind of token that is not rendered as usual; `env` is the state of the section."""

    def text(self, tokens: Sequence[Token], idx: int, options: Any, env: dict[str, Any]) -> str:
        text = tokens[idx].content
        html = breakable(text) if env.get("in_table") else escape(text)
        return env["parts"].get(text) or str(html).replace("&lt;br&gt;", "<br>")

    def paragraph_open(self, tokens: Sequence[Token], idx: int, options: Any, env: dict[str, Any]) -> str:
        inline = tokens[idx + 1]
        if inline.content in env["parts"]:
            return ""
        if [child.type for child in inline.children] == ["image"]:
            return _scrolling("figure", inline.children[0].content)
        return self.renderToken(tokens, idx, options, env)

    def paragraph_close(self, tokens: Sequence[Token], idx: int, options: Any, env: dict[str, Any]) -> str:
        inline = tokens[idx - 1]
        if inline.content in env["parts"]:
            return ""
        if [child.type for child in inline.children] == ["image"]:
            return "</figure>\n"
        return self.renderToken(tokens, idx, options, env)

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: dict[str, Any]) -> str:
        image = tokens[idx]
        svg = env["pictures"].get(PurePosixPath(image.attrs["src"]).name)
        alt = escape(image.content)
        return f'<img src="data:image/svg+xml;base64,{b64encode(svg).decode()}" alt="{alt}">' if svg else str(alt)

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: dict[str, Any]) -> str:
        return ""

    link_close = link_open

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: dict[str, Any]) -> str:
        env["title"] = "".join(child.content for child in tokens[idx + 1].children)
        return self.renderToken(tokens, idx, options, env)

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: dict[str, Any]) -> str:
        title, env["in_table"] = env["title"], True
        return f'{_scrolling("div", title)}<table class="sortable"><caption>{escape(title)}</caption>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: dict[str, Any]) -> str:
        env["in_table"] = False
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: Any, env: dict[str, Any]) -> str:
        return '<th scope="col">'

    def td_open(self, tokens: Sequence[Token], idx: int, options: Any, env: dict[str, Any]) -> str:
        if tokens[idx - 1].type == "tr_open":
            return '<th scope="row">'
        return '<td class="whole">' if len(tokens[idx + 1].content) <= WHOLE else "<td>"

    def td_close(self, tokens: Sequence[Token], idx: int, options: Any, env: dict[str, Any]) -> str:
        return "</th>" if tokens[idx - 3].type == "tr_open" else "</td>"


def _scrolling(tag: str, label: str) -> str:
    """The start of a part that may be wider than the page, and can be scrolled by keyboard."""
    return f'<{tag} class="scroll" role="group" tabindex="0" aria-label="{escape(label)}">'
