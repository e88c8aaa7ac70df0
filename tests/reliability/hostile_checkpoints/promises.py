"""What is promised to somebody who opens a stranger's checkpoint, and the tests that hold it."""

from __future__ import annotations

__all__ = ["PROMISES"]

_HERE = "tests/reliability/hostile_checkpoints"
_NAMES = f"{_HERE}/test_names.py"
_NOTHING = f"{_HERE}/test_nothing_is_run.py"
_SIZES = f"{_HERE}/test_sizes_and_numbers.py"
_PLACES = f"{_HERE}/test_parts_and_places.py"
_FUZZ = "tests/reliability/hostile_bytes/test_fuzz.py"
_EXHAUSTIVE = "tests/reliability/hostile_bytes/test_exhaustive.py"
_SWAPPING = "tests/reliability/writers/test_swapping.py"

PROMISES: dict[str, tuple[str, tuple[str, ...]]] = {
    "S1": (
        "Nothing is unpickled, in no path.",
        (
            f"{_NOTHING}::test_s1_a_pickle_in_place_of_any_file_is_not_loaded",
            "tests/test_lint_bans.py::test_nothing_banned_is_written",
        ),
    ),
    "S2": (
        "No name from a checkpoint is imported, called or formatted.",
        (
            f"{_NOTHING}::test_s2_names_in_a_checkpoint_are_only_shown",
            f"{_NOTHING}::test_s2_a_kind_that_is_unknown_is_refused_by_its_name",
            f"{_EXHAUSTIVE}::test_a_damaged_byte_gives_the_right_value_or_our_error",
        ),
    ),
    "S3": (
        "A file name is one plain component, opened relative to the directory and never through a link.",
        (
            f"{_NAMES}::test_s3_a_file_name_that_leads_elsewhere_is_refused_before_anything_is_opened",
            "tests/storage/test_local_directory.py::test_links_are_neither_followed_nor_listed",
            f"{_SWAPPING}::test_what_is_read_is_never_what_a_link_leads_to",
        ),
    ),
    "S4": (
        "No archive is opened.",
        (
            f"{_NOTHING}::test_s4_an_archive_behind_or_before_a_file_is_not_opened",
            f"{_NOTHING}::test_s4_what_reads_checkpoints_knows_no_archives",
        ),
    ),
    "S5": (
        "Deletion follows no link and leaves other file systems alone.",
        (
            "tests/storage/test_local_directory.py::test_links_are_neither_followed_nor_listed",
            "tests/storage/test_local_directory.py::test_a_link_in_place_of_our_own_files_is_refused",
            "tests/storage/test_local_directory.py::test_a_mounted_file_system_inside_the_rubbish_is_left_alone",
            f"{_SWAPPING}::test_pruning_never_deletes_what_a_link_leads_to",
            f"{_SWAPPING}::test_sweeping_never_deletes_what_a_link_leads_to",
        ),
    ),
    "S6": (
        "Sizes are judged before memory is asked for; pipes, devices and sockets are not read.",
        (
            f"{_SIZES}::test_s6_a_manifest_beyond_its_limit_is_not_read",
            f"{_SIZES}::test_s6_a_report_beyond_its_limit_is_not_read",
            f"{_SIZES}::test_s6_a_tensor_file_that_claims_to_be_huge_is_measured_first",
            f"{_SIZES}::test_s6_what_is_not_a_plain_file_is_neither_read_nor_waited_for",
        ),
    ),
    "S7": (
        "JSON that two readers could read differently is refused.",
        (
            f"{_SIZES}::test_s7_json_that_two_readers_could_read_differently_is_refused",
            "tests/storage/test_manifest_bytes.py::test_hostile_json_with_a_right_digest_is_refused",
            "tests/storage/test_safetensors_header.py::test_hostile_headers_are_refused",
            f"{_FUZZ}::test_fuzzed_bytes_are_read_or_refused",
        ),
    ),
    "S8": (
        "Shapes, offsets and sizes are multiplied without wrapping.",
        (
            f"{_SIZES}::test_s8_shapes_are_multiplied_without_wrapping",
            "tests/storage/test_manifest_bytes.py::test_tensors_must_cover_their_file_exactly_once",
        ),
    ),
    "S9": (
        "Only the one spelling of a step is a step.",
        (
            f"{_NAMES}::test_s9_only_the_one_spelling_of_a_step_is_a_step",
            "tests/storage/test_local_directory.py::test_what_is_not_ours_is_neither_listed_nor_removed",
        ),
    ),
    "S10": (
        "Keys of a state never become file names.",
        (f"{_NAMES}::test_s10_keys_of_a_state_never_become_file_names",),
    ),
    "S11": (
        "Parts of two checkpoints never load as one.",
        (
            f"{_PLACES}::test_s11_parts_of_two_checkpoints_are_never_one",
            f"{_PLACES}::test_s11_a_checkpoint_under_another_step_s_name_is_damage",
            "tests/saver/test_saver_damage.py::test_parts_of_one_step_never_load_in_another",
        ),
    ),
    "S12": (
        (
            "What is checked and what is read are the same open file; what changes meanwhile is damage. "
            "(A file cut short under `mmap=True` ends the process, as it does for anyone who maps files.)"
        ),
        (
            f"{_PLACES}::test_s12_a_file_that_changes_while_it_is_read_is_right_or_damaged",
            "tests/storage/test_local_ranges.py::test_a_file_that_ends_in_the_middle_of_a_range_is_damage",
            "tests/storage/test_local_directory.py::test_a_file_that_shrinks_while_it_is_leased_is_damaged",
            f"{_SWAPPING}::test_what_is_read_is_never_what_a_link_leads_to",
        ),
    ),
    "S13": (
        "Modes are up to the umask, and those of a directory that exists are kept.",
        (
            f"{_PLACES}::test_s13_modes_are_those_of_the_umask_for_everything_that_is_made",
            f"{_PLACES}::test_s13_the_mode_of_a_directory_that_exists_is_kept",
        ),
    ),
    "S14": (
        "Any bytes are a value or an error of the tree, in bounded time and memory.",
        (
            f"{_FUZZ}::test_fuzzed_bytes_are_read_or_refused",
            f"{_EXHAUSTIVE}::test_a_damaged_byte_gives_the_right_value_or_our_error",
            f"{_EXHAUSTIVE}::test_a_file_cut_short_gives_the_right_value_or_our_error",
            f"{_PLACES}::test_s14_whatever_lies_there_is_a_value_or_an_error_of_ours",
        ),
    ),
}
"""For each of S1 to S14 of the fault model: the promise, and its tests."""
