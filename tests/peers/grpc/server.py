"""A core made of grpcio, which misbehaves as the host of the SIP URI tells it to.

usage: server.py STUBS [CERTIFICATE KEY]

Prints one JSON object a line: first {"port": N}, then what it was asked.
"""

import json
import sys
import threading
import time
from concurrent import futures

sys.path.insert(0, sys.argv[1])

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from wgtwo.consents.v1 import consents_pb2, consents_pb2_grpc
from wgtwo.events.v1 import events_pb2
from wgtwo.sipbreakout.v0 import sipbreakout_pb2 as v0
from wgtwo.sipbreakout.v1 import sipbreakout_pb2 as v1

HOUR = Duration(seconds=3600)
LIVES = {
    "hour": HOUR,
    "short": Duration(seconds=2, nanos=500_000_000),
    "endless": Duration(seconds=315_576_000_000),
    "zero": Duration(),
    "negative": Duration(seconds=-3600),
    "least": Duration(seconds=-(2**63), nanos=-(2**31)),
}


def tell(**facts):
    print(json.dumps(facts), flush=True)


def answers(behaviour, context, ok):
    """The messages, in bytes, that answer a request; `ok` makes the good answer with a life."""
    if behaviour in LIVES:
        yield ok(1, LIVES[behaviour])
    elif behaviour == "mute":
        yield ok(1, None)
    elif behaviour.startswith("status-"):
        yield ok(int(behaviour.removeprefix("status-")), HOUR)
    elif behaviour.startswith("code-"):
        code = {code.value[0]: code for code in grpc.StatusCode}[int(behaviour.removeprefix("code-"))]
        context.abort(code, "refused for +4799990001")
    elif behaviour == "twice":
        yield ok(1, HOUR)
        yield ok(1, HOUR)
    elif behaviour == "empty":
        return
    elif behaviour == "nothing":
        yield b""
    elif behaviour == "garbage":
        yield b"\xff" * 40
    elif behaviour == "huge":
        yield ok(1, HOUR) + b"\x12\x80\x80\x80\x01" + b"a" * (2 * 1024 * 1024)
    elif behaviour == "late":
        time.sleep(3)
        yield ok(1, HOUR)
    elif behaviour == "never":
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(60)
    else:
        raise ValueError(behaviour)


class Registrations(grpc.GenericRpcHandler):
    """Serves bytes, so that it can answer what no generated code would."""

    def service(self, call):
        methods = {
            "/wgtwo.sipbreakout.v1.SipBreakoutService/UpsertRegistration": self.upsert,
            "/wgtwo.sipbreakout.v1.SipBreakoutService/DeleteRegistration": self.delete,
            "/wgtwo.sipbreakout.v0.SipBreakoutService/UpsertRegistration": self.v0,
            "/wgtwo.sipbreakout.v0.SipBreakoutService/DeleteRegistration": self.v0,
        }
        method = methods.get(call.method)
        if method is None:
            return None
        metadata = dict(call.invocation_metadata)

        def serve(request, context):
            yield from method(request, context, call.method.split("/")[-1], metadata)

        return grpc.unary_stream_rpc_method_handler(serve)

    def upsert(self, request, context, name, metadata):
        wish = v1.UpsertRegistrationRequest.FromString(request).registration
        self.tell(name, wish, metadata)

        def ok(code, life):
            return v1.UpsertRegistrationResponse(
                status_code=code, error_message="said", time_to_live=life
            ).SerializeToString()

        yield from answers(behaviour(wish.sip_uri), context, ok)

    def delete(self, request, context, name, metadata):
        wish = v1.DeleteRegistrationRequest.FromString(request).registration
        self.tell(name, wish, metadata)

        def ok(code, _life):
            return v1.DeleteRegistrationResponse(
                status_code=code, error_message="said"
            ).SerializeToString()

        yield from answers(behaviour(wish.sip_uri), context, ok)

    def v0(self, request, context, name, metadata):
        wish = v0.RegistrationRequest.FromString(request)
        tell(
            method=name,
            prefixes=[wish.mo_prefix, wish.mt_prefix],
            uri=wish.suri,
            route=v0.RegistrationRequest.RouteType.Name(wish.route_type),
            token=metadata.get("authorization"),
        )

        def ok(code, _life):
            status = v0.Status(code=code - 1, message="said")
            return v0.RegistrationResponse(status=status).SerializeToString()

        yield from answers(behaviour(wish.suri), context, ok)

    def tell(self, name, wish, metadata):
        tell(
            method=name,
            prefixes=[wish.mobile_originating_prefix, wish.mobile_terminating_prefix],
            uri=wish.sip_uri,
            route=v1.RouteType.Name(wish.route_type),
            number=wish.phone_number.e164,
            token=metadata.get("authorization"),
        )


def behaviour(uri):
    return uri.removeprefix("sips:").removesuffix(".example.com")


class Consents(consents_pb2_grpc.ConsentEventServiceServicer):
    """The first stream breaks, the second brings events, the third what was not acknowledged."""

    def __init__(self):
        self.streams = 0

    def StreamConsentChangeEvents(self, request, context):
        self.streams += 1
        terms = request.stream_configuration
        tell(
            stream=self.streams,
            in_flight=terms.max_in_flight,
            type=terms.WhichOneof("stream_type"),
            acknowledged=terms.WhichOneof("acknowledge_option") is None,
            start=terms.WhichOneof("start_position"),
            token=dict(context.invocation_metadata()).get("authorization"),
        )
        if self.streams == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        event = consents_pb2.ConsentChangeEvent
        revoked = consents_pb2.ConsentRevoked()
        if self.streams == 2:
            yield self.event("nonsense", event())
            yield self.event("bad-number", event(revoked=revoked, number={"e164": "12"}))
            yield self.event("added", event(added={"scopes": ["a"]}, number={"e164": "+4799990001"}))
            yield self.event("tenant", event(revoked=revoked, tenant="operator"))
            return
        again = event(revoked=revoked, number={"e164": "+4799990002"})
        yield self.event("revoked", again, is_redelivered=True)
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(60)

    def event(self, ack, event, is_redelivered=False):
        return consents_pb2.StreamConsentChangeEventsResponse(
            metadata=events_pb2.Metadata(
                timestamp=Timestamp(seconds=1_800_000_000, nanos=5_000_000),
                identifier=events_pb2.Identifier(sequence_id=1),
                ack_info=events_pb2.AckInfo(value=ack),
                is_redelivered=is_redelivered,
            ),
            consent_change_event=event,
        )

    def AckConsentChangeEvent(self, request, context):
        value = request.ack_info.value
        tell(acked=value)
        status = events_pb2.AckStatus
        code = status.STATUS_CODE_FAILURE if value == "tenant" else status.STATUS_CODE_SUCCESS
        return consents_pb2.AckConsentChangeEventResponse(ack_status={"status_code": code})


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((Registrations(),))
    consents_pb2_grpc.add_ConsentEventServiceServicer_to_server(Consents(), server)
    if len(sys.argv) > 2:
        certificate, key = (open(path, "rb").read() for path in sys.argv[2:4])
        credentials = grpc.ssl_server_credentials([(key, certificate)])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tell(port=port)
    server.wait_for_termination()


main()
