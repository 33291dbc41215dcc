"""The language server: the protocol's messages, answered by the other files of this room. `sasc lsp` starts it on standard input and output."""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version
from pathlib import Path

from lsprotocol import types
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from sasimc.isa.errors import Diagnostic
from sasimc.lsp import complete, edits, hover, navigate, paint
from sasimc.lsp.document import Document
from sasimc.lsp.facts import Facts, gather

__all__ = ["Server", "create"]

QUIET_S = 0.25
"""Time without a key press after which a text is assembled and linted."""

_SEVERITY = {"error": types.DiagnosticSeverity.Error, "warning": types.DiagnosticSeverity.Warning}

_LEGEND = types.SemanticTokensLegend(paint.TOKENS, paint.MODIFIERS)


class Server(LanguageServer):
    """Open texts, what is known of them, and the work behind."""

    def __init__(self) -> None:
        super().__init__("sasc", version("sas-imc"))
        self.documents: dict[str, Document] = {}
        self.facts: dict[str, Facts] = {}
        self.shown: dict[str, list[tuple[types.Diagnostic, Diagnostic]]] = {}
        self.waiting: dict[str, asyncio.Task[None]] = {}

    def document(self, uri: str) -> Document:
        """The open text of an address."""
        if uri not in self.documents:
            encoding = self.workspace.position_encoding
            self.documents[uri] = Document(str(getattr(encoding, "value", encoding)))
            self.documents[uri].update(self.workspace.get_text_document(uri).source)
        return self.documents[uri]

    def facts_of(self, uri: str) -> Facts:
        """What was last found about a text; nothing while it has never been assembled."""
        return self.facts.get(uri, Facts())

    def changed(self, uri: str) -> None:
        """Take over a text and have it checked after a moment."""
        self.document(uri).update(self.workspace.get_text_document(uri).source)
        if (task := self.waiting.pop(uri, None)) is not None:
            task.cancel()
        self.waiting[uri] = asyncio.get_running_loop().create_task(self._check(uri))

    async def _check(self, uri: str) -> None:
        await asyncio.sleep(QUIET_S)
        text = self.document(uri).text
        path = Path(to_fs_path(uri) or "untitled.s")
        try:
            found = await asyncio.to_thread(gather, text, path)
        except Exception:  # a fault of ours must not stop the editor's work
            logging.exception("checking %s", uri)
            return
        if uri not in self.documents or self.documents[uri].text != text:
            return  # the text went on; its own check is waiting
        self.facts[uri] = (
            found
            if found.program is not None
            else Facts(found.diagnostics, *(lambda f: (f.program, f.estimates, {}))(self.facts_of(uri)))
        )
        self._publish(uri)
        if self.client_capabilities.workspace and self.client_capabilities.workspace.inlay_hint:
            self.workspace_inlay_hint_refresh(None)

    def _publish(self, uri: str) -> None:
        document = self.documents[uri]
        shown = []
        for d in self.facts[uri].diagnostics:
            span = d.span
            where = document.range(span.line, span.column, span.width) if span else document.range(1, 1, len(document.lines[0]))
            text = d.message + (f"\n{d.hint}" if d.hint else "")
            shown.append(
                (types.Diagnostic(where, text, _SEVERITY.get(d.severity, types.DiagnosticSeverity.Information), source="sasc"), d)
            )
        self.shown[uri] = shown
        self.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, [s for s, _ in shown]))

    def forget(self, uri: str) -> None:
        """A text was closed."""
        if (task := self.waiting.pop(uri, None)) is not None:
            task.cancel()
        for known in (self.documents, self.facts, self.shown):
            known.pop(uri, None)
        self.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, []))


def _is_a_fault(record: logging.LogRecord) -> bool:
    """Whether a log record tells of a fault of ours, not of a wish that was refused."""
    return not (record.exc_info and isinstance(record.exc_info[1], JsonRpcInvalidParams))


def create() -> Server:
    """A server with all its features."""
    server = Server()
    logging.getLogger("pygls.protocol.json_rpc").addFilter(_is_a_fault)

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    async def opened(ls: Server, params: types.DidOpenTextDocumentParams) -> None:
        ls.changed(params.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    async def changed(ls: Server, params: types.DidChangeTextDocumentParams) -> None:
        ls.changed(params.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    async def saved(ls: Server, params: types.DidSaveTextDocumentParams) -> None:
        ls.changed(params.text_document.uri)  # the weights file may be another now

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(ls: Server, params: types.DidCloseTextDocumentParams) -> None:
        ls.forget(params.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_HOVER)
    def hovered(ls: Server, params: types.HoverParams) -> types.Hover | None:
        uri = params.text_document.uri
        return hover.hover(ls.document(uri), ls.facts_of(uri), params.position)

    @server.feature(types.TEXT_DOCUMENT_COMPLETION, types.CompletionOptions(trigger_characters=[".", ",", " "]))
    def completed(ls: Server, params: types.CompletionParams) -> list[types.CompletionItem]:
        return complete.complete(ls.document(params.text_document.uri), params.position)

    @server.feature(types.TEXT_DOCUMENT_SIGNATURE_HELP, types.SignatureHelpOptions(trigger_characters=[",", " "]))
    def signature(ls: Server, params: types.SignatureHelpParams) -> types.SignatureHelp | None:
        return complete.signature(ls.document(params.text_document.uri), params.position)

    @server.feature(types.TEXT_DOCUMENT_DEFINITION)
    def definition(ls: Server, params: types.DefinitionParams) -> types.Location | None:
        uri = params.text_document.uri
        return navigate.definition(ls.document(uri), uri, params.position)

    @server.feature(types.TEXT_DOCUMENT_REFERENCES)
    def references(ls: Server, params: types.ReferenceParams) -> list[types.Location]:
        uri = params.text_document.uri
        return navigate.references(ls.document(uri), uri, params.position, params.context.include_declaration)

    @server.feature(types.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT)
    def highlights(ls: Server, params: types.DocumentHighlightParams) -> list[types.DocumentHighlight]:
        return navigate.highlights(ls.document(params.text_document.uri), params.position)

    @server.feature(types.TEXT_DOCUMENT_PREPARE_RENAME)
    def renameable(ls: Server, params: types.PrepareRenameParams) -> types.Range | None:
        return navigate.renameable(ls.document(params.text_document.uri), params.position)

    @server.feature(types.TEXT_DOCUMENT_RENAME, types.RenameOptions(prepare_provider=True))
    def renamed(ls: Server, params: types.RenameParams) -> types.WorkspaceEdit:
        uri = params.text_document.uri
        try:
            return navigate.rename(ls.document(uri), uri, params.position, params.new_name)
        except ValueError as exc:
            raise JsonRpcInvalidParams(str(exc)) from None

    @server.feature(types.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def symbols(ls: Server, params: types.DocumentSymbolParams) -> list[types.DocumentSymbol]:
        return navigate.symbols(ls.document(params.text_document.uri))

    @server.feature(types.TEXT_DOCUMENT_FOLDING_RANGE)
    def folding(ls: Server, params: types.FoldingRangeParams) -> list[types.FoldingRange]:
        return navigate.folding(ls.document(params.text_document.uri))

    @server.feature(types.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL, _LEGEND)
    def all_tokens(ls: Server, params: types.SemanticTokensParams) -> types.SemanticTokens:
        document = ls.document(params.text_document.uri)
        return types.SemanticTokens(paint.tokens(document, 1, len(document.lines)))

    @server.feature(types.TEXT_DOCUMENT_SEMANTIC_TOKENS_RANGE, _LEGEND)
    def some_tokens(ls: Server, params: types.SemanticTokensRangeParams) -> types.SemanticTokens:
        document = ls.document(params.text_document.uri)
        return types.SemanticTokens(paint.tokens(document, params.range.start.line + 1, params.range.end.line + 1))

    @server.feature(types.TEXT_DOCUMENT_INLAY_HINT)
    def hints(ls: Server, params: types.InlayHintParams) -> list[types.InlayHint]:
        uri = params.text_document.uri
        return paint.hints(ls.document(uri), ls.facts_of(uri), params.range.start.line + 1, params.range.end.line + 1)

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions([types.CodeActionKind.QuickFix]))
    def actions(ls: Server, params: types.CodeActionParams) -> list[types.CodeAction]:
        uri, at = params.text_document.uri, params.range
        here = [
            (s, d) for s, d in ls.shown.get(uri, []) if s.range.start.line <= at.end.line and s.range.end.line >= at.start.line
        ]
        return list(edits.fixes(ls.document(uri), uri, here))

    @server.feature(types.TEXT_DOCUMENT_FORMATTING)
    def formatted(ls: Server, params: types.DocumentFormattingParams) -> list[types.TextEdit]:
        return edits.formatting(ls.document(params.text_document.uri))

    return server
