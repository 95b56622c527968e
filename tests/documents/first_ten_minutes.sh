# The first ten minutes: from a clone to a resolved review. Run it anywhere, as
#
#     bash -ex first_ten_minutes.sh PATH_OR_URL_OF_PAYPROC
#
# It needs git and Python 3.10 with venv. It leaves a folder `payproc` here, and the database in your data folder.

# Get it, and install it into an environment of its own.
git clone -q "$1" payproc && cd payproc
python3 -m venv .venv && .venv/bin/pip install -q .
PATH=$PWD/.venv/bin:$PATH

# Read the help and the rules.
payproc --version
payproc --help
payproc rules

# Preview a file. This writes nothing.
payproc ingest --dry-run sample_events/clean_day.jsonl

# Process it. The first run creates the embedded database.
payproc ingest sample_events/clean_day.jsonl

# Again, as after an outage: no change happens twice.
payproc ingest sample_events/clean_day.jsonl

# A file with malformed lines: its events are recorded, and exit code 3 reports the others ...
payproc ingest sample_events/malformed_lines.jsonl --malformed to_mend.jsonl || test $? = 3

# ... which can be mended. Here it is the unknown type. The payment is captured by now, so the event needs review.
grep '"void"' to_mend.jsonl | sed 's/"void"/"fail"/' | payproc ingest -

# Two refunds of one payment, and a capture after them. A machine must not decide that either.
payproc ingest sample_events/refund_race.jsonl
payproc review

# Look at the payment's whole history; as JSON with every line as received.
payproc show pay_coat
payproc show pay_coat --format json

# A person decides. (On a terminal, without --yes, it shows the effect of the decision, and asks.)
payproc resolve evt_4004 --dismiss --note "the refund of evt_4003, reported twice" --expect refunded --yes
payproc resolve evt_4005 --dismiss --note "late report of the first capture" --expect refunded --yes
payproc resolve evt_7002 --apply --note "voided manually, nothing was shipped" --expect captured --yes
payproc review
payproc show pay_map

# Check that every history explains its payment's state, and list the runs so far.
payproc verify
payproc runs

# Export all records, as lines that an empty database can ingest; stderr names the omissions.
payproc export > recorded.jsonl

# Copy them into another database, which is removed again here.
copy=$(mktemp -d)
PAYPROC_HOME=$copy payproc ingest recorded.jsonl
rm -rf "$copy"
