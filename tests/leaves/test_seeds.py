"""Seeds grow from one root."""

from hypothesis import given
from hypothesis import strategies as st

from hpsearch.seeds import derive


@given(st.integers(0, 2**31 - 1), st.lists(st.one_of(st.text(), st.integers(0, 10**6)), max_size=4))
def test_a_seed_depends_on_its_place_alone_and_fits_all_backends(root, path):
    seed = derive(root, *path)
    assert seed == derive(root, *path)
    assert 0 <= seed < 2**31


def test_no_two_of_many_places_share_a_seed():
    seeds = [
        derive(root, "trial", number, part)
        for root in (0, 1)
        for number in range(500)
        for part in ("a", "b")
    ]
    assert len(set(seeds)) == len(seeds)


def test_a_name_is_not_its_number_and_places_do_not_run_together():
    assert (
        len(
            {
                derive(1, "trial", 12),
                derive(1, "trial", "12"),
                derive(1, "trial", 1, 2),
                derive(1, "trial12"),
            }
        )
        == 4
    )


def test_seeds_stay_what_they_are_in_every_version():
    assert derive(42, "trial", 7, "weights") == 1026396358
