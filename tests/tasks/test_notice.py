"""Notices reach a real webhook and a real mail server, name no secret, and stop nothing where nobody takes them."""

from __future__ import annotations

import pytest
from receivers import mail_server, webhook

from qwenlong.tasks.notice import require_places, send
from qwenlong_core.settings.profiles import SettingsError, load_settings

KEY = "sk-4711"


def test_every_place_gets_the_message(monkeypatch):
    with webhook() as (port, posts), mail_server() as (smtp, mails):
        monkeypatch.setenv("OPS_HOOK", f"json://127.0.0.1:{port}/{KEY}")
        monkeypatch.setenv("OPS_MAIL", f"mailto://127.0.0.1:{smtp}?from=ci@example.org&to=ops@example.org")
        send(["$OPS_HOOK", "$OPS_MAIL"], "qwenlong: smoke 1: Failed", "the judge at http://me:pw1@h/ is away")
    [post], [mail] = posts, mails
    assert post["title"] == "qwenlong: smoke 1: Failed" and post["message"] == "the judge at http://***@h/ is away"
    assert "ops@example.org" in mail and "qwenlong: smoke 1: Failed" in mail and "pw1" not in mail


def test_a_receiver_that_is_away_or_refuses_is_named_without_its_address_and_the_others_hear(monkeypatch, caplog):
    with webhook(status=500) as (bad, refused), webhook() as (good, posts):
        monkeypatch.setenv("AWAY", f"json://127.0.0.1:9/{KEY}")
        monkeypatch.setenv("BAD", f"json://127.0.0.1:{bad}/{KEY}")
        monkeypatch.setenv("GOOD", f"json://127.0.0.1:{good}/{KEY}")
        send(["$AWAY", "$BAD", "$UNSET", "$GOOD"], "subject", "body")
    assert len(posts) == 1 and len(refused) == 1
    for place in ("$AWAY", "$BAD", "$UNSET"):
        assert f"notice not sent to {place}" in caplog.text
    assert KEY not in caplog.text


def test_a_place_without_an_address_is_refused_at_the_door(monkeypatch, caplog):
    monkeypatch.setenv("ODD", f"nosuch-{KEY}")
    monkeypatch.delenv("UNSET", raising=False)
    with pytest.raises(ValueError, match=r"\$UNSET, which is not set"):
        require_places(["$UNSET"])
    with pytest.raises(ValueError, match=r"\$ODD is no address") as caught:
        require_places(["$ODD"])
    assert KEY not in str(caught.value) + caplog.text


@pytest.mark.parametrize("place", [f"slack://{KEY}", f"https://hooks.slack.com/{KEY}", f"mailto://me:{KEY}@host", ""])
def test_an_address_is_no_setting_and_is_not_repeated(place):
    with pytest.raises(SettingsError, match=r"notify.to.0: name a notification block") as caught:
        load_settings("smoke", values={"notify.to": [place]})
    assert KEY not in str(caught.value)


def test_places_are_blocks_and_variables():
    settings = load_settings("smoke", ['notify.to=["slack-webhook/team", "$OPS_MAIL"]'])
    assert settings.notify.to == ("slack-webhook/team", "$OPS_MAIL")
