"""What every key provider does. Subclass it and supply `provider` and `stranger`, which has another KEK."""

import secrets
from uuid import UUID, uuid4

import pytest

from dmcore.keys.errors import UnwrapFailed, WrongKek
from dmcore.keys.provider import KeyProvider, PlanKeys, Purpose, WrappedKeys, mint, unwrap_all
from dmcore.model.ids import PlanId

PLAN = PlanId(UUID(int=7))
KEY = secrets.token_bytes(32)


class KeyProviderContract:
    def test_unwraps_what_it_wrapped(self, provider: KeyProvider) -> None:
        wrapped = provider.wrap(Purpose.DEK, PLAN, 1, KEY)
        assert provider.unwrap(Purpose.DEK, PLAN, 1, wrapped) == KEY

    def test_wrapped_shows_no_key_and_never_repeats(self, provider: KeyProvider) -> None:
        first, second = (provider.wrap(Purpose.DEK, PLAN, 1, KEY) for _ in range(2))
        assert first != second
        assert KEY not in first

    @pytest.mark.parametrize(
        ("purpose", "plan", "version"),
        [(Purpose.DIGEST_ROOT, PLAN, 1), (Purpose.DEK, PlanId(uuid4()), 1), (Purpose.DEK, PLAN, 2)],
        ids=["purpose", "plan", "version"],
    )
    def test_bound_to(self, provider: KeyProvider, purpose: Purpose, plan: PlanId, version: int) -> None:
        wrapped = provider.wrap(Purpose.DEK, PLAN, 1, KEY)
        with pytest.raises(UnwrapFailed, match=str(plan)):
            provider.unwrap(purpose, plan, version, wrapped)

    @pytest.mark.parametrize("at", [0, 31, 32, -1])
    def test_any_damage_is_noticed(self, provider: KeyProvider, at: int) -> None:
        wrapped = bytearray(provider.wrap(Purpose.DEK, PLAN, 1, KEY))
        wrapped[at] ^= 1
        with pytest.raises(UnwrapFailed):
            provider.unwrap(Purpose.DEK, PLAN, 1, bytes(wrapped))

    @pytest.mark.parametrize("length", [0, 1, 32, 40, 79])
    def test_cut_short(self, provider: KeyProvider, length: int) -> None:
        wrapped = provider.wrap(Purpose.DEK, PLAN, 1, KEY)
        with pytest.raises(UnwrapFailed):
            provider.unwrap(Purpose.DEK, PLAN, 1, wrapped[:length])

    def test_mint_and_unwrap_all(self, provider: KeyProvider) -> None:
        wrapped = mint(provider, PLAN, 3)
        keys = unwrap_all(provider, WrappedKeys.model_validate_json(wrapped.model_dump_json()))
        assert keys.dek_version == 3
        assert len(keys.dek) == len(keys.digest_root) == 32
        assert keys.dek != keys.digest_root
        assert keys == unwrap_all(provider, wrapped)
        assert keys != unwrap_all(provider, mint(provider, PLAN, 3))

    def test_a_later_version_keeps_the_digest_root(self, provider: KeyProvider) -> None:
        first = unwrap_all(provider, mint(provider, PLAN, 1))
        later = unwrap_all(provider, mint(provider, PLAN, 2, first.digest_root))
        assert later.digest_root == first.digest_root
        assert later.dek != first.dek
        assert later.dek_version == 2

    def test_another_kek_is_refused_before_anything_is_decrypted(
        self, provider: KeyProvider, stranger: KeyProvider
    ) -> None:
        class NeverUnwraps:
            kek_fingerprint = provider.kek_fingerprint
            wrap = provider.wrap

            def unwrap(self, purpose: Purpose, plan: PlanId, version: int, wrapped: bytes) -> bytes:
                raise AssertionError("decrypted")

        with pytest.raises(WrongKek, match=stranger.kek_fingerprint) as refused:
            unwrap_all(NeverUnwraps(), mint(stranger, PLAN, 1))
        assert refused.value.code == "key.wrong-kek"

    def test_a_lie_about_the_kek_does_not_help(self, provider: KeyProvider, stranger: KeyProvider) -> None:
        forged = mint(stranger, PLAN, 1).model_copy(update={"kek_fingerprint": provider.kek_fingerprint})
        with pytest.raises(UnwrapFailed):
            unwrap_all(provider, forged)

    def test_no_key_in_any_repr(self, provider: KeyProvider) -> None:
        keys = unwrap_all(provider, mint(provider, PLAN, 1))
        assert repr(keys) == "PlanKeys(dek_version=1)"
        assert str(PlanKeys(1, KEY, KEY)) == "PlanKeys(dek_version=1)"
        assert KEY.hex() not in repr(provider)
