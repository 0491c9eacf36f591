"""Write a text into an XMP packet, and read it from one. Other programs keep such packets as they are."""

from __future__ import annotations

import html
import re

SPACE = "https://diffusers-ext.github.io/ns/1.0/"  # names our property; nothing is fetched from there
_BEFORE = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    f'<rdf:Description rdf:about="" xmlns:dx="{SPACE}"'
)
_AFTER = "</rdf:RDF></x:xmpmeta>"
_RECORD = re.compile(rb"<dx:record>(.*?)</dx:record>", re.DOTALL)


def packet(text: str) -> bytes:
    """Return a packet that holds an ASCII text."""
    inner = f"><dx:record>{html.escape(text, quote=False)}</dx:record></rdf:Description>"
    return f"{_BEFORE}{inner}{_AFTER}".encode("ascii")


def pointer(guid: str) -> bytes:
    """Return a packet that says where the rest is, as JPEG needs for packets above 64 KB."""
    note = f' xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="{guid}"/>'
    return f"{_BEFORE}{note}{_AFTER}".encode("ascii")


def text_of(packet: bytes) -> str | None:
    """Return the text in a packet, or `None`. The packet is searched, never run through an XML parser."""
    found = _RECORD.search(packet)
    return html.unescape(found[1].decode("utf-8", "replace")) if found else None
