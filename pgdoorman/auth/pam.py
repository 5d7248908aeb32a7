"""Passwords judged by PAM, through libpam itself. Blocks, sometimes for seconds: call it from an `Offload` only.

The conversation is the one that PostgreSQL holds (manual, "PAM Authentication"): the password answers the one question
that is asked without echo, messages are passed over, and any other question ends it, since there is nobody to ask.
"""

import ctypes
import ctypes.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

_SUCCESS: Final = 0
_BUFFER_ERROR: Final = 5
_CONVERSATION_ERROR: Final = 19

_ECHO_OFF: Final = 1
_ERROR_MESSAGE: Final = 3
_INFORMATION: Final = 4

_REMOTE_HOST: Final = 4
_FAIL_DELAY: Final = 10

_MAX_MESSAGES: Final = 32
"""What libpam itself admits in one go (PAM_MAX_NUM_MSG)."""


class _Message(ctypes.Structure):
    _fields_ = (("style", ctypes.c_int), ("text", ctypes.c_char_p))


class _Response(ctypes.Structure):
    # Not c_char_p: the pointer must stay as it is, for libpam frees it.
    _fields_ = (("text", ctypes.c_void_p), ("code", ctypes.c_int))


_Converse = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(_Message)),
    ctypes.POINTER(ctypes.POINTER(_Response)),
    ctypes.c_void_p,
)
_Delay = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)


class _Conversation(ctypes.Structure):
    _fields_ = (("converse", _Converse), ("data", ctypes.c_void_p))


@dataclass(frozen=True, slots=True)
class PamQuestion:
    """May `user` with `password` come in from `remote_host` ("" if that is not to be told), says `service`?

    `directory` is where the service is described, "" for the system's /etc/pam.d."""

    service: str
    user: str
    password: bytes = field(repr=False)
    remote_host: str = ""
    directory: str = ""


def is_installed() -> bool:
    """Whether there is a libpam to ask."""
    return _libpam() is not None


def pam_refusal(question: PamQuestion) -> str:
    """Why not, in PAM's words and for the log; "" if PAM admits the user. Never raises."""
    library = _libpam()
    if library is None:
        return "libpam is not installed"
    texts = (question.service, question.user, question.remote_host, question.directory)
    if any("\0" in text for text in texts) or b"\0" in question.password or not question.password:
        return "a name or the password cannot be given to PAM"
    return _ask(library, question)


@cache
def _libpam() -> ctypes.CDLL | None:
    name = ctypes.util.find_library("pam")
    if name is None:
        return None
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return None
    handle, text = ctypes.c_void_p, ctypes.c_char_p
    library.pam_start.argtypes = (text, text, ctypes.POINTER(_Conversation), ctypes.POINTER(handle))
    if hasattr(library, "pam_start_confdir"):  # since Linux-PAM 1.4
        library.pam_start_confdir.argtypes = (text, text, ctypes.POINTER(_Conversation), text, ctypes.POINTER(handle))
    library.pam_set_item.argtypes = (handle, ctypes.c_int, handle)
    library.pam_strerror.argtypes = (handle, ctypes.c_int)
    library.pam_strerror.restype = text
    for name_of_call in ("pam_authenticate", "pam_acct_mgmt", "pam_end"):
        getattr(library, name_of_call).argtypes = (handle, ctypes.c_int)
    return library


@cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
    library.calloc.restype = ctypes.c_void_p
    library.strdup.argtypes = (ctypes.c_char_p,)
    library.strdup.restype = ctypes.c_void_p
    library.free.argtypes = (ctypes.c_void_p,)
    return library


def _ask(library: ctypes.CDLL, question: PamQuestion) -> str:
    # Both callbacks must live as long as the handle.
    conversation = _Conversation(_Converse(_conversation(question.password)), None)
    no_delay = _Delay(lambda *_: None)
    handle = ctypes.c_void_p()
    status = _start(library, question, conversation, handle)
    if status != _SUCCESS:
        return f"PAM service {question.service}: it could not be started (error {status})"
    try:
        # A refusal would put this thread to sleep for seconds. How often somebody may fail is counted elsewhere.
        library.pam_set_item(handle, _FAIL_DELAY, ctypes.cast(no_delay, ctypes.c_void_p))
        if question.remote_host:
            host = ctypes.c_char_p(question.remote_host.encode())
            library.pam_set_item(handle, _REMOTE_HOST, ctypes.cast(host, ctypes.c_void_p))
        for call in (library.pam_authenticate, library.pam_acct_mgmt):
            status = call(handle, 0)
            if status != _SUCCESS:
                text = library.pam_strerror(handle, status) or b"refused"
                return f"PAM service {question.service}: {text.decode(errors='backslashreplace')}"
        return ""
    finally:
        library.pam_end(handle, status)


def _start(library: ctypes.CDLL, question: PamQuestion, conversation: _Conversation, handle: ctypes.c_void_p) -> int:
    arguments: tuple[Any, ...] = (question.service.encode(), question.user.encode(), ctypes.byref(conversation))
    if question.directory:
        status: int = library.pam_start_confdir(*arguments, question.directory.encode(), ctypes.byref(handle))
    else:
        status = library.pam_start(*arguments, ctypes.byref(handle))
    return status


def _conversation(password: bytes) -> Callable[..., int]:
    """The callback that answers the modules. What it hands out is allocated by libc, for libpam frees it."""
    libc = _libc()

    def converse(count: int, messages: Any, responses: Any, _: object) -> int:
        if not 1 <= count <= _MAX_MESSAGES:
            return _CONVERSATION_ERROR
        styles = [messages[number].contents.style for number in range(count)]
        if any(style not in (_ECHO_OFF, _ERROR_MESSAGE, _INFORMATION) for style in styles):
            return _CONVERSATION_ERROR
        memory = libc.calloc(count, ctypes.sizeof(_Response))
        if not memory:
            return _BUFFER_ERROR
        answers = ctypes.cast(memory, ctypes.POINTER(_Response))
        for number, style in enumerate(styles):
            answers[number].text = libc.strdup(password if style == _ECHO_OFF else b"")
        responses[0] = answers
        return _SUCCESS

    return converse
