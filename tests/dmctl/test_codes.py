from dmcore.errors import ExitCode, all_errors
from dmctl.codes import exit_code_of


def test_a_code_of_any_node_has_its_family_here() -> None:
    assert exit_code_of("source.changed") is ExitCode.SOURCE
    assert exit_code_of("ticket.forged") is ExitCode.TRUST
    assert exit_code_of("staging.full") is ExitCode.TARGET


def test_every_error_that_is_known_is_known_by_its_code() -> None:
    for error in all_errors():
        assert exit_code_of(error.code) is error.exit_code or not error.__module__.startswith("dmcore.")


def test_a_code_of_another_version_is_a_fault() -> None:
    assert exit_code_of("of.the-future") is ExitCode.INTERNAL
