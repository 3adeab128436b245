"""What every page must be: well-formed, complete in itself, each of its pictures with its table."""

from test_report import Page


def page_of(path, links=()):
    """The page at a path, checked: it loads nothing, links to files that are there, and shows each figure once.

    ``links`` are the addresses elsewhere to which it may link.
    """
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    loads = ("src", "href", "xlink:href", "data", "srcset", "poster", "action")
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in loads and tag != "a":
                assert value.startswith(("#", "data:")), (tag, name, value)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert "@import" not in text
    assert "url(http" not in text
    targets = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    outside = [target for target in targets if ":" in target]
    assert set(outside) <= set(links), outside
    assert all((path.parent / target).is_file() for target in targets if target not in outside)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    shown = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    files = {file.name for file in (path.parent / "figures").iterdir()}
    names = {name.removesuffix(".svg") for name in files if name.endswith(".svg")}
    assert files == {f"{name}.{kind}" for name in names for kind in ("svg", "pdf", "csv")}
    assert len(shown) == len(names)
    assert all(shown)
    return page
