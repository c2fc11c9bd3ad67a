"""A client of the core's API, generated from proto/, which tries all of it at the sandbox.

usage: client.py STUBS ADDRESS ISSUER

The sandbox keeps registrations for three seconds and waits one second for acknowledgements.
"""

import base64
import html
import http.cookiejar
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, sys.argv[1])

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from wgtwo.consents.v1 import consents_pb2, consents_pb2_grpc
from wgtwo.events.v1 import events_pb2
from wgtwo.sipbreakout.v0 import sipbreakout_pb2 as v0
from wgtwo.sipbreakout.v0 import sipbreakout_pb2_grpc as v0_grpc
from wgtwo.sipbreakout.v1 import sipbreakout_pb2 as v1
from wgtwo.sipbreakout.v1 import sipbreakout_pb2_grpc as v1_grpc

ADDRESS, ISSUER = sys.argv[2:4]
BACK = "http://127.0.0.1:8080/auth/callback"
CLIENT, SECRET = "aftertone", "sandbox-secret"
ANNA, BJARNE, CECILIE = "+4799990001", "+4799990002", "+4799990003"
ENDPOINT = "sips:voicemail.example.com"
SOON = 20
Code = grpc.StatusCode


def request(path, form=None, body=None, headers=(), opener=urllib.request):
    data = None
    headers = dict(headers)
    if form is not None:
        data = urllib.parse.urlencode(form).encode()
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    call = urllib.request.Request(urllib.parse.urljoin(ISSUER, path), data, headers)
    open_url = opener.open if opener is not urllib.request else opener.urlopen
    with open_url(call, timeout=SOON) as answer:
        return answer.geturl(), answer.read().decode()


class StopAtClient(urllib.request.HTTPRedirectHandler):
    """Follows the sandbox's own pages, and stops where the client would begin."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if newurl.startswith(BACK):
            raise Back(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Back(Exception):
    pass


def hidden(page, action):
    form = page.split(f'action="{action}"')[1].split("</form>")[0]
    fields = re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', form)
    return {name: html.unescape(value) for name, value in fields}


def token_of(form):
    basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    return json.loads(request("/oauth2/token", form=form, headers=headers)[1])["access_token"]


def client_token(scope="call.routing:write"):
    return token_of({"grant_type": "client_credentials", "scope": scope})


def sign_in(number, scope):
    """The access token of a subscriber who signs in and consents."""
    cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    browser = urllib.request.build_opener(cookies, StopAtClient())
    query = {
        "client_id": CLIENT,
        "redirect_uri": BACK,
        "response_type": "code",
        "scope": f"openid phone {scope}",
        "state": "s",
        "nonce": "n",
    }
    try:
        _, page = request("/oauth2/auth?" + urllib.parse.urlencode(query), opener=browser)
        form = hidden(page, "/oauth2/number") | {"number": number}
        _, page = request("/oauth2/number", form=form, opener=browser)
        inbox = json.loads(request(f"/sandbox/sms/{number}")[1])
        pin = inbox["messages"][0]["text"][:6]
        form = hidden(page, "/oauth2/pin") | {"pin": pin}
        _, page = request("/oauth2/pin", form=form, opener=browser)
        form = hidden(page, "/oauth2/consent") | {"decision": "allow"}
        request("/oauth2/consent", form=form, opener=browser)
    except Back as back:
        code = urllib.parse.parse_qs(urllib.parse.urlsplit(str(back)).query)["code"][0]
        return token_of({"grant_type": "authorization_code", "code": code, "redirect_uri": BACK})
    raise AssertionError("the sign-in did not end")


def as_(token):
    return {"metadata": [("authorization", f"Bearer {token}")], "timeout": SOON}


def registered(number):
    everything = json.loads(request("/sandbox/registrations")[1])["registrations"]
    return [one["sip_uri"] for one in everything if one["number"] == number]


def refused_with(code, call, *args, **kwargs):
    codes = code if isinstance(code, tuple) else (code,)
    try:
        answer = call(*args, **kwargs)
    except grpc.RpcError as error:
        assert error.code() in codes, error
        assert error.details(), error
    else:
        raise AssertionError(f"answered {answer}")


def wish(kind=v1.UpsertRegistrationRequest, **change):
    fields = {
        "mobile_originating_prefix": "00",
        "mobile_terminating_prefix": "00",
        "sip_uri": ENDPOINT,
        "route_type": v1.ROUTE_TYPE_FALLBACK,
    }
    return kind(registration=v1.Registration(**(fields | change)))


def registrations(channel):
    stub = v1_grpc.SipBreakoutServiceStub(channel)
    own = as_(sign_in(ANNA, "call.routing:write"))
    for _ in range(2):
        answer = stub.UpsertRegistration(wish(), **own)
        assert answer.status_code == v1.STATUS_CODE_OK, answer
        assert answer.time_to_live.seconds == 3, answer
        assert registered(ANNA) == [ENDPOINT]
    other = wish(v1.DeleteRegistrationRequest, sip_uri="sips:other.example.com")
    assert stub.DeleteRegistration(other, **own).status_code == v1.STATUS_CODE_NOT_ACCEPTABLE
    deleted = stub.DeleteRegistration(wish(v1.DeleteRegistrationRequest), **own)
    assert deleted.status_code == v1.STATUS_CODE_OK, deleted
    assert registered(ANNA) == []

    stub.UpsertRegistration(wish(), **own)
    until = time.monotonic() + SOON
    while registered(ANNA):
        assert time.monotonic() < until, "a registration lives on"
        time.sleep(0.1)


def refusals(channel):
    stub = v1_grpc.SipBreakoutServiceStub(channel)
    upsert = stub.UpsertRegistration
    refused_with(Code.UNAUTHENTICATED, upsert, wish(), timeout=SOON)
    refused_with(Code.UNAUTHENTICATED, upsert, wish(), **as_("guessed"))
    refused_with(Code.PERMISSION_DENIED, upsert, wish(), **as_(sign_in(BJARNE, "offline_access")))
    own = as_(sign_in(ANNA, "call.routing:write"))
    named = {"phone_number": {"e164": BJARNE}}
    refused_with(Code.PERMISSION_DENIED, upsert, wish(**named), **own)
    for bad in [
        {"sip_uri": "sip:voicemail.example.com"},
        {"sip_uri": "sips:somebody@voicemail.example.com"},
        {"route_type": v1.ROUTE_TYPE_UNSPECIFIED},
    ]:
        answer = upsert(wish(**bad), **own)
        assert answer.status_code == v1.STATUS_CODE_NOT_ACCEPTABLE, bad
        assert answer.error_message and not answer.HasField("time_to_live"), answer
    client = as_(client_token())
    assert upsert(wish(**named), **client).status_code == v1.STATUS_CODE_OK
    assert registered(BJARNE) == [ENDPOINT]
    for bad in [{}, {"phone_number": {"e164": "99990002"}}, {"phone_number": {"e164": "+4711111111"}}]:
        assert upsert(wish(**bad), **client).status_code == v1.STATUS_CODE_NOT_ACCEPTABLE, bad


def old_dialect(channel):
    stub = v0_grpc.SipBreakoutServiceStub(channel)
    own = as_(sign_in(CECILIE, "call.control.answer_and_initiate"))
    wanted = v0.RegistrationRequest(mo_prefix="00", suri=ENDPOINT, route_type=v0.RegistrationRequest.FALLBACK)
    answer = stub.UpsertRegistration(wanted, **own)
    assert answer.HasField("status") and answer.status.code == v0.Status.OK, answer
    assert registered(CECILIE) == [ENDPOINT]
    wrong = v0.RegistrationRequest(suri="sips:other.example.com")
    assert stub.DeleteRegistration(wrong, **own).status.code == v0.Status.NOT_ACCEPTABLE
    assert stub.DeleteRegistration(wanted, **own).status.code == v0.Status.OK
    refused_with(Code.PERMISSION_DENIED, stub.UpsertRegistration, wanted, **as_(client_token()))


def description(channel):
    services = ProtoReflectionDescriptorDatabase(channel)
    names = set(services.get_services())
    ours = {
        "wgtwo.sipbreakout.v0.SipBreakoutService",
        "wgtwo.sipbreakout.v1.SipBreakoutService",
        "wgtwo.consents.v1.ConsentEventService",
    }
    assert ours | {"grpc.health.v1.Health"} <= names, names
    described = services.FindFileContainingSymbol("wgtwo.sipbreakout.v1.Registration")
    fields = {
        field.name: field.number
        for message in described.message_type
        if message.name == "Registration"
        for field in message.field
    }
    assert fields == {
        "mobile_originating_prefix": 1,
        "mobile_terminating_prefix": 2,
        "sip_uri": 3,
        "route_type": 4,
        "phone_number": 5,
    }, fields
    health = health_pb2_grpc.HealthStub(channel)
    for service in ours | {""}:
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=SOON)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, service


def consents(channel):
    stub = consents_pb2_grpc.ConsentEventServiceStub(channel)
    client = as_(client_token())
    listen = consents_pb2.StreamConsentChangeEventsRequest(
        stream_configuration=events_pb2.StreamConfiguration(max_in_flight=1)
    )
    # The queue begins with the first stream, whose headers say that it is there.
    first = stub.StreamConsentChangeEvents(listen, **client)
    first.initial_metadata()
    number = "+4799990004"
    token = sign_in(number, "call.routing:write")
    added = next(first)
    assert added.consent_change_event.WhichOneof("type") == "added", added
    assert added.consent_change_event.number.e164 == number, added
    assert "call.routing:write" in added.consent_change_event.added.scopes, added
    again = next(first)
    assert again.metadata.is_redelivered and not added.metadata.is_redelivered
    assert again.metadata.identifier == added.metadata.identifier

    def ack(event):
        message = consents_pb2.AckConsentChangeEventRequest(ack_info=event.metadata.ack_info)
        return stub.AckConsentChangeEvent(message, **client).ack_status.status_code

    assert ack(added) == events_pb2.AckStatus.STATUS_CODE_FAILURE, "too late"
    assert ack(again) == events_pb2.AckStatus.STATUS_CODE_SUCCESS
    first.cancel()

    request("/sandbox/revoke-consent", body={"number": number})
    second = stub.StreamConsentChangeEvents(listen, **client)
    revoked = next(second)
    assert revoked.consent_change_event.WhichOneof("type") == "revoked", revoked
    assert revoked.consent_change_event.number.e164 == number, revoked
    assert ack(revoked) == events_pb2.AckStatus.STATUS_CODE_SUCCESS
    second.cancel()
    upsert = v1_grpc.SipBreakoutServiceStub(channel).UpsertRegistration
    refused_with(Code.UNAUTHENTICATED, upsert, wish(), **as_(token))
    refused_with(Code.PERMISSION_DENIED, lambda: next(
        stub.StreamConsentChangeEvents(listen, **as_(sign_in(ANNA, "call.routing:write")))
    ))


def modes(channel):
    upsert = v1_grpc.SipBreakoutServiceStub(channel).UpsertRegistration
    own = as_(sign_in(ANNA, "call.routing:write"))

    def switch(mode, on):
        request("/sandbox/modes", body={"mode": mode, "on": on, "number": ANNA})

    for mode, code in [("core-unavailable", Code.UNAVAILABLE), ("expired-token", Code.UNAUTHENTICATED)]:
        switch(mode, True)
        refused_with(code, upsert, wish(), **own)
        switch(mode, False)
    switch("registration-refused", True)
    assert upsert(wish(), **own).status_code == v1.STATUS_CODE_NOT_ACCEPTABLE
    switch("registration-refused", False)
    switch("core-slow", True)
    # The server knows the deadline too, and may be the first to see that it is over.
    too_late = (Code.DEADLINE_EXCEEDED, Code.CANCELLED)
    refused_with(too_late, upsert, wish(), **(own | {"timeout": 0.3}))
    switch("core-slow", False)
    assert upsert(wish(), **own).status_code == v1.STATUS_CODE_OK


with grpc.insecure_channel(ADDRESS) as channel:
    for story in [registrations, refusals, old_dialect, description, consents, modes]:
        story(channel)
        print(f"{story.__name__}: good", flush=True)
