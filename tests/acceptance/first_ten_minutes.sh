# The first ten minutes: from a clone to a resolved review. Run it anywhere, as
#
#     bash -ex first_ten_minutes.sh WHERE_PAYPROC_IS
#
# It needs git and Python 3.10 with venv; it leaves a folder `payproc` here, and the database in your data folder.

# Get it, and install it into an environment of its own.
git clone -q "$1" payproc && cd payproc
python3 -m venv .venv && .venv/bin/pip install -q .
PATH=$PWD/.venv/bin:$PATH

# What does it do, and by what rules?
payproc --version
payproc --help
payproc rules

# What would become of a file? Nothing is written yet.
payproc ingest --dry-run sample_events/clean_day.jsonl

# Process it. The first time this creates the embedded database.
payproc ingest sample_events/clean_day.jsonl

# Again, as after an outage: nothing happens twice.
payproc ingest sample_events/clean_day.jsonl

# A file with lines that are not events: what can be done is done (exit code 3 says that some could not) ...
payproc ingest sample_events/malformed_lines.jsonl --malformed to_mend.jsonl || test $? = 3

# ... and what is left can be mended: here the one with an unknown type. Its payment was captured by then, so it waits.
grep '"void"' to_mend.jsonl | sed 's/"void"/"fail"/' | payproc ingest -

# Two refunds of one payment, and a capture after them. A machine must not decide that either.
payproc ingest sample_events/refund_race.jsonl
payproc review

# Who is right? The payment's whole history; as JSON, with every line as it came.
payproc show pay_coat
payproc show pay_coat --format json

# A person decides. (On a terminal, without --yes, it shows what the decision does, and asks.)
payproc resolve evt_4004 --dismiss --note "the refund of evt_4003, reported twice" --expect refunded --yes
payproc resolve evt_4005 --dismiss --note "late report of the first capture" --expect refunded --yes
payproc resolve evt_7002 --apply --note "voided by hand, nothing was shipped" --expect captured --yes
payproc review
payproc show pay_map

# Does every payment's history explain its state? What has been done so far?
payproc verify
payproc runs

# All that is recorded, as lines that an empty database can ingest; stderr says what it leaves out.
payproc export > recorded.jsonl

# So this copies it into another database, which is thrown away again here.
copy=$(mktemp -d)
PAYPROC_HOME=$copy payproc ingest recorded.jsonl
rm -rf "$copy"
