"""Host expressions, ranks and alternative names; the expected lists are what toolkit 1.28.1 makes of them."""

from __future__ import annotations

import pytest

from handfast.errors import UsageError
from handfast.nifi.hosts import MAX_HOSTS, Instance, alternative_names, expand, instances, pair_names


@pytest.mark.parametrize(
    ("expression", "directories"),
    [
        ("a.lan", "a.lan"),
        ("n[1-3]", "n1 n2 n3"),
        ("n[3]", "n1 n2 n3"),
        ("n[003]x", "n001x n002x n003x"),
        ("n[0001-3]", "n0001 n0002 n0003"),
        ("n[08-11]", "n08 n09 n10 n11"),
        ("n[3-1]", "n3 n2 n1"),
        ("n[03-01]", "n03 n02 n01"),
        ("n[3-3]", "n3"),
        ("n[1-05]", "n1 n2 n3 n4 n5"),
        ("a[1-2]b[1-2]", "a1b1 a1b2 a2b1 a2b2"),
        ("a(2)", "a a_2"),
        ("a(2-3)", "a_2 a_3"),
        ("a(02)", "a a_2"),
        ("a[1-2](2)", "a1 a1_2 a2 a2_2"),
        ("a, b(2) ,c,", "a b b_2 c"),
    ],
)
def test_expressions_expand_as_in_the_toolkit(expression: str, directories: str) -> None:
    """Ranges, padding, products, instances and lists come out in the toolkit's order."""
    assert [instance.directory for instance in expand([expression])] == directories.split()


def test_a_descending_range_may_cross_a_power_of_ten() -> None:
    """The toolkit breaks on [10-08]; here it is padded as its end is."""
    assert alternative_names(["n[10-08]"]) == ("n10", "n09", "n08")
    assert alternative_names(["n[10-8]"]) == ("n10", "n9", "n8")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "not a host expression: ''"),
        ("a,,b", "not a host expression: ''"),
        ("(2)", "not a host expression"),
        ("a[1", "not a host expression"),
        ("a]", "not a host expression"),
        ("a)", "not a host expression"),
        ("a[[1-2]]", "not a host expression"),
        ("a[]", "not a range: ''"),
        ("a[x]", "not a range: 'x'"),
        ("a[ 1-2]", "not a range: ' 1-2'"),
        ("a[1-2-3]", "not a range"),
        ("a[0]", "not a range: '0'"),
        ("a[\u0663]", "not a range"),
        ("a(2)b", r"'\(…\)' does not end 'a\(2\)b'"),
        ("a(2", "does not end"),
        ("a(x)", "not a range: 'x'"),
        ("a()", "not a range: ''"),
    ],
)
def test_what_is_no_expression_is_refused(expression: str, message: str) -> None:
    """A mistake is named with the expression, and no host comes of it."""
    with pytest.raises(UsageError, match=message) as refused:
        expand([expression])
    assert refused.value.hint


@pytest.mark.parametrize(
    "values",
    [["n[1-1001]"], ["n[999999999]"], ["n(1001)"], ["a[40]b[40]"], ["n[999]", "a,b"], ["a[9]" * 200]],
    ids=["range", "number", "instances", "product", "together", "brackets"],
)
def test_the_number_of_hosts_is_bounded(values: list[str]) -> None:
    """More than a thousand hosts are refused before they are made."""
    with pytest.raises(UsageError, match=f"more than {MAX_HOSTS} hosts"):
        expand(values)
    assert len(expand(["n[1000]"])) == MAX_HOSTS


def test_the_rank_is_the_number_without_a_sequence() -> None:
    """Instances on one host have different ports, and the first one of each host the same."""
    assert [definition.rank for definition in instances(["a(2),b", "c(3-3)"])] == [1, 2, 1, 3]


def test_the_global_sequence_ranks_by_name_and_number() -> None:
    """Ranks depend on the sequence alone, whichever hosts are asked for and in which order."""
    sequence = ["c,b(2)", "a"]
    assert [definition.rank for definition in instances(["c,b(2),a"], sequence)] == [4, 2, 3, 1]
    assert [definition.rank for definition in instances(["b(2-2)"], sequence)] == [3]


def test_a_host_outside_the_sequence_is_refused() -> None:
    """A host that the sequence does not have would have the ports of another one."""
    with pytest.raises(UsageError, match="not in the global port sequence: 'b_2'"):
        instances(["a,b(2)"], ["a,b"])


@pytest.mark.parametrize("value", ["a,a", "a(2),a", "a(2),a_2"])
def test_two_instances_in_one_directory_are_refused(value: str) -> None:
    """The toolkit finds out when it has written the first of them."""
    with pytest.raises(UsageError, match="is asked for twice"):
        instances([value])


@pytest.mark.parametrize("value", ["a(0-1)", "a(54094-54094)"])
def test_a_rank_without_ports_is_refused(value: str) -> None:
    """No instance gets a port below the base ports or above the last one there is."""
    with pytest.raises(UsageError, match="there are no ports for instance"):
        instances([value])
    assert instances(["a(54093-54093)"])[0].instance == Instance("a", 54093)


@pytest.mark.parametrize(
    ("count", "names", "expected"),
    [
        (2, (), ((), ())),
        (2, ("v",), (("v",), ("v",))),
        (2, ("v", "w"), (("v",), ("w",))),
        (1, ("v", "w"), (("v", "w"),)),
        (0, ("v",), ()),
    ],
)
def test_names_are_paired_with_hosts(count: int, names: tuple[str, ...], expected: tuple[tuple[str, ...], ...]) -> None:
    """One name is for every host, and as many names as hosts are one for each; nothing needs to be said."""
    pairing = pair_names(count, names)
    assert (pairing.names, pairing.remark) == (expected, "")


def test_another_number_of_names_is_told() -> None:
    """Three names for two hosts are all in both certificates, which is hardly what was meant."""
    pairing = pair_names(2, ("u", "v", "w"))
    assert pairing.names == (("u", "v", "w"),) * 2
    assert pairing.remark == "3 alternative names for 2 hosts: every host gets all of them"


def test_instances_of_a_name_count_as_names() -> None:
    """``vip(2)`` pairs with two hosts, as in the toolkit."""
    assert alternative_names(["vip(2),w"]) == ("vip", "vip", "w")
