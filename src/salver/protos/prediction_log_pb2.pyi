from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Exchange(_message.Message):
    __slots__ = ("request", "response")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    response: bytes
    def __init__(self, request: _Optional[bytes] = ..., response: _Optional[bytes] = ...) -> None: ...

class PredictionLog(_message.Message):
    __slots__ = ("classify_log", "regress_log", "multi_inference_log", "session_run_log", "predict_log", "predict_streamed_log")
    CLASSIFY_LOG_FIELD_NUMBER: _ClassVar[int]
    REGRESS_LOG_FIELD_NUMBER: _ClassVar[int]
    MULTI_INFERENCE_LOG_FIELD_NUMBER: _ClassVar[int]
    SESSION_RUN_LOG_FIELD_NUMBER: _ClassVar[int]
    PREDICT_LOG_FIELD_NUMBER: _ClassVar[int]
    PREDICT_STREAMED_LOG_FIELD_NUMBER: _ClassVar[int]
    classify_log: Exchange
    regress_log: Exchange
    multi_inference_log: Exchange
    session_run_log: bytes
    predict_log: Exchange
    predict_streamed_log: bytes
    def __init__(self, classify_log: _Optional[_Union[Exchange, _Mapping]] = ..., regress_log: _Optional[_Union[Exchange, _Mapping]] = ..., multi_inference_log: _Optional[_Union[Exchange, _Mapping]] = ..., session_run_log: _Optional[bytes] = ..., predict_log: _Optional[_Union[Exchange, _Mapping]] = ..., predict_streamed_log: _Optional[bytes] = ...) -> None: ...
