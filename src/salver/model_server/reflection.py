"""gRPC's server reflection: what ``grpcurl`` and its kin need to speak to a server they never met.

The messages are described by their public names, those of TensorFlow Serving and TensorFlow.  The
descriptions are data and stay data: they are read at the first question, and never enter
protobuf's own pool, where ``tensorflow-serving-api`` may have registered the same names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pkgutil import get_data
from typing import Final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from salver.errors import Internal, InvalidArgument, NotFound, ServingError
from salver.protos.reflection_pb2 import (
    FileDescriptorResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from salver.wire.calls import Methods, Streaming

_Request = ServerReflectionRequest
_Response = ServerReflectionResponse

PATHS: Final = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
"""The same bytes mean the same in both versions."""


def read_descriptions() -> bytes:
    """The FileDescriptorSet of everything a client can meet here."""
    described = get_data("salver.protos", "public.binpb")
    if described is None:
        raise Internal("this installation of Salver lacks the descriptions of its messages")
    return described


class Reflection:
    """Answers what a client asks about the services of this server, on the event loop.

    ``served_paths`` are the paths of the other methods; only their services are listed.
    """

    def __init__(
        self, served_paths: Iterable[str], *, read: Callable[[], bytes] = read_descriptions
    ) -> None:
        self._services = sorted({path.split("/")[1] for path in (*served_paths, *PATHS)})
        self._read = read
        self._answers: Mapping[str, Callable[[_Request, _Response], None]] = {
            "list_services": self._list_services,
            "file_by_filename": self._file_by_filename,
            "file_containing_symbol": self._file_containing_symbol,
            "file_containing_extension": self._file_containing_extension,
            "all_extension_numbers_of_type": self._all_extension_numbers_of_type,
        }

    def methods(self) -> Methods:
        """Both versions of the one method, by their paths."""
        return {path: Streaming(self.info) for path in PATHS}

    async def info(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """ServerReflection.ServerReflectionInfo: an answer to each question, failed ones too."""
        async for data in requests:
            yield self._answer(data)

    def _answer(self, data: bytes) -> bytes:
        try:
            request = _Request.FromString(data)
        except DecodeError as error:
            raise Internal(
                f"the {len(data)} bytes received are no ServerReflectionRequest: {error}"
            ) from error
        response = _Response(valid_host=request.host, original_request=request)
        try:
            self._fill(request, response)
        except ServingError as error:
            response.error_response.error_code = error.code
            response.error_response.error_message = error.message
        return response.SerializeToString()

    def _fill(self, request: _Request, response: _Response) -> None:
        kind = request.WhichOneof("message_request")
        if kind is None:
            raise InvalidArgument("the request asks nothing that this server knows to answer")
        self._answers[kind](request, response)

    @cached_property
    def _descriptions(self) -> Descriptions:
        return Descriptions(self._read())

    def _list_services(self, _request: _Request, response: _Response) -> None:
        services = [ServiceResponse(name=name) for name in self._services]
        response.list_services_response.service.extend(services)

    def _file_by_filename(self, request: _Request, response: _Response) -> None:
        found = with_dependencies(self._descriptions.by_name(request.file_by_filename))
        response.file_descriptor_response.file_descriptor_proto.extend(found)

    def _file_containing_symbol(self, request: _Request, response: _Response) -> None:
        found = with_dependencies(self._descriptions.by_symbol(request.file_containing_symbol))
        response.file_descriptor_response.file_descriptor_proto.extend(found)

    def _file_containing_extension(self, request: _Request, _response: _Response) -> None:
        asked = request.file_containing_extension
        raise NotFound(
            f"no extension {asked.extension_number} of {asked.containing_type!r:.200}: "
            "the messages of this server have none"
        )

    def _all_extension_numbers_of_type(self, request: _Request, response: _Response) -> None:
        name = request.all_extension_numbers_of_type
        self._descriptions.by_symbol(name)
        response.all_extension_numbers_response.base_type_name = name


class Descriptions:
    """Described files by their names, and by the names of what they describe."""

    def __init__(self, described: bytes) -> None:
        """``described`` is a FileDescriptorSet: on the wire, the same as an answer with files."""
        self._pool = DescriptorPool()  # of its own: the process's would refuse a name it knows
        for file in FileDescriptorResponse.FromString(described).file_descriptor_proto:
            self._pool.AddSerializedFile(file)

    def by_name(self, name: str) -> FileDescriptor:
        """The file of that name.

        Raises:
            NotFound: there is none.
        """
        try:
            return self._pool.FindFileByName(name)
        except KeyError:
            raise NotFound(f"no file here is named {name!r:.200}") from None

    def by_symbol(self, symbol: str) -> FileDescriptor:
        """The file that describes a message, field, enum, value, service or method.

        Raises:
            NotFound: none does.
        """
        with suppress(KeyError):
            return self._pool.FindFileContainingSymbol(symbol)
        with suppress(KeyError):  # protobuf does not count methods as symbols everywhere
            return self._pool.FindMethodByName(symbol).containing_service.file
        raise NotFound(f"nothing here is named {symbol!r:.200}")


def with_dependencies(file: FileDescriptor) -> list[bytes]:
    """A file and all that it depends on, each once, the file first."""
    wanted = {file.name: file}
    waiting = [file]
    for each in waiting:  # which grows
        new = [one for one in each.dependencies if one.name not in wanted]
        wanted |= {one.name: one for one in new}
        waiting += new
    return [one.serialized_pb for one in wanted.values()]
