"""The secrets of a cluster in the state folder."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flambed.errors import StepError
from flambed.keys import KeyStore
from flambed.ssh import new_host_key, public_key_of


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    """A store in a state folder that does not exist yet."""
    return KeyStore(tmp_path / "state")


def test_the_login_key_is_kept_as_it_was_sent_and_can_be_replaced(store: KeyStore, tmp_path: Path) -> None:
    """A second `up` may bring another key; a new service finds it."""
    for private in (new_host_key()[0], new_host_key()[0]):
        store.keep_login_key("c1", private)
        assert KeyStore(tmp_path / "state").login_key("c1") == private


def test_a_login_key_that_cannot_be_used_is_not_kept(store: KeyStore) -> None:
    """The good one stays."""
    private, public = new_host_key()
    store.keep_login_key("c1", private)
    with pytest.raises(ValueError, match="is a public key"):
        store.keep_login_key("c1", public)
    assert store.login_key("c1") == private


def test_the_host_key_is_made_once_a_cluster(store: KeyStore, tmp_path: Path) -> None:
    """Also over a restart; each cluster has its own, and both halves belong together."""
    pair = store.host_key("c1")
    assert public_key_of(pair.private) == pair.public
    assert KeyStore(tmp_path / "state").host_key("c1") == pair
    assert store.host_key("c2").public != pair.public


def test_the_orchestrators_key_is_made_once_a_cluster_and_is_no_host_key(store: KeyStore, tmp_path: Path) -> None:
    """It goes with the cluster, as the others do."""
    pair = store.peer_key("c1")
    assert public_key_of(pair.private) == pair.public
    assert KeyStore(tmp_path / "state").peer_key("c1") == pair
    assert pair != store.host_key("c1")
    store.forget("c1")
    assert store.peer_key("c1") != pair


def test_threads_that_ask_at_once_get_the_same_host_key(store: KeyStore) -> None:
    """The user data of both roles must carry one key."""
    with ThreadPoolExecutor(8) as pool:
        assert len({pair.public for pair in pool.map(store.host_key, ["c1"] * 16)}) == 1


def test_user_data_is_kept_byte_by_byte_under_its_digest(store: KeyStore, tmp_path: Path) -> None:
    """What AWS saw once can be sent again."""
    user_data = b"#cloud-config\n\x00\xff\r\n"
    digest = store.keep_user_data("c1", user_data)
    assert digest == hashlib.sha256(user_data).hexdigest()
    assert store.keep_user_data("c1", user_data) == digest
    assert KeyStore(tmp_path / "state").user_data("c1", digest) == user_data


def test_damaged_user_data_is_never_sent(store: KeyStore, tmp_path: Path) -> None:
    """AWS would refuse the replay; the error says what to do."""
    digest = store.keep_user_data("c1", b"#cloud-config\n")
    (tmp_path / "state" / "keys" / "c1" / f"user_data-{digest}").write_bytes(b"#cloud-")
    with pytest.raises(StepError, match="is damaged"):
        store.user_data("c1", digest)


def test_what_is_not_kept_is_an_error_that_says_what_to_do(store: KeyStore) -> None:
    """Never an empty key."""
    with pytest.raises(StepError, match=r"login key of cluster c1 .* run `flambectl up FILE` again"):
        store.login_key("c1")
    with pytest.raises(StepError, match="user data of cluster c1"):
        store.user_data("c1", "0" * 64)


def test_only_the_services_user_can_read_any_of_it(store: KeyStore, tmp_path: Path) -> None:
    """Folders 0700, files 0600, and nothing temporary is left."""
    store.keep_login_key("c1", new_host_key()[0])
    store.host_key("c1")
    store.peer_key("c1")
    store.keep_user_data("c1", b"x")
    paths = list((tmp_path / "state").rglob("*"))
    assert len([path for path in paths if path.is_file()]) == 4
    for path in [tmp_path / "state", *paths]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_a_forgotten_cluster_leaves_nothing_and_the_others_stay(store: KeyStore, tmp_path: Path) -> None:
    """Forgetting twice is no error."""
    kept = store.host_key("c1")
    store.host_key("c2")
    store.forget("c2")
    store.forget("c2")
    assert [path.name for path in (tmp_path / "state" / "keys").iterdir()] == ["c1"]
    assert store.host_key("c1") == kept


@pytest.mark.parametrize("cluster_id", ["", ".", "..", "../c1", "a/b", ".hidden", "a\0b", "x" * 129])
def test_an_id_never_leads_out_of_the_state_folder(store: KeyStore, cluster_id: str) -> None:
    """It is refused before any file is touched."""
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        store.forget(cluster_id)
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        store.host_key(cluster_id)


def test_a_host_key_never_shows_its_private_half(store: KeyStore) -> None:
    """Neither as text nor for debugging."""
    pair = store.host_key("c1")
    assert "PRIVATE" not in f"{pair} {pair!r}"
