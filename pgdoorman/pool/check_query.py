"""`pooler_check_query`: a query that clients ask again and again to see whether anybody is there.

What a server without a statement answers (`;`, the default, and nothing at all) is known: the client room answers that
without us. For any other text the answer is asked of a server once, when a backend is opened, and given from then on.
"""

# Texts that need nobody to answer them.
PLAIN = (b"", b";")


class CheckQuery:
    """One text and what a server says to it. Written by the helper that opens a backend, read by every worker."""

    __slots__ = ("_answer", "asked", "text")

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.asked = False
        self._answer: bytes | None = None

    @property
    def is_special(self) -> bool:
        """Whether the answer has to be asked for."""
        return self.text not in PLAIN

    @property
    def is_wanted(self) -> bool:
        """Whether nobody has asked yet. What was answered with an error is not asked again: then the query goes to a
        server each time, as any other."""
        return self.is_special and not self.asked

    def learn(self, answer: bytes | None) -> None:
        """A server was asked. None: its answer is not to be repeated."""
        self._answer = answer
        self.asked = True

    def answer_to(self, text: bytes | memoryview) -> bytes | None:
        """The answer, if this is the text, byte for byte, and the answer is known."""
        return self._answer if self._answer is not None and text == self.text else None
