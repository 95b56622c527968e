# Checkout.com's events as input for payproc; your_own.md beside this file explains the mapping.
#
#   set -o pipefail
#   jq -cf sample_events/psp/checkout.jq checkout.jsonl | payproc ingest -
#
# --arg mode test   take the events of the sandbox, and only those

def recipe: "checkout.jq";
def options: {mode: ["live", "test"]};
def foreign: "! not a Checkout.com event";
def page: empty;
def time: .created_on // .timestamp;

# Events do not name their mode, but their links lead to the sandbox.
def is_test: [._links?, .data.event_links? | objects | .. | strings] | any(contains("sandbox.checkout.com"));

# Known kinds without effect on a payment's state. payment_paid is a payout.
def no_step: {
  payment_pending: 1, payment_capture_pending: 1, payment_refund_pending: 1, payment_void_pending: 1,
  payment_authentication_failed: 1, payment_retry_scheduled: 1, payment_authorization_incremented: 1,
  payment_authorization_increment_declined: 1, payment_paid: 1
};

def payment: .data | .payment_id // .id;

# The balances tell whole from part. Events of the first API have none.
def step:
  .data.balances as $balances
  | if .type == "payment_approved" then "authorize"
    elif .type == "payment_captured" then "capture"
    elif .type | . == "payment_declined" or . == "payment_canceled" or . == "payment_expired" then "fail"
    elif .type == "payment_voided" then
      if $balances | . == null or (.total_captured == 0 and .available_to_capture == 0) then "fail" else "flag" end
    elif .type == "payment_refunded" then
      if $balances | .total_captured > 0 and .total_refunded == .total_captured then "refund" else "flag" end
    elif no_step[.type] then null
    elif (.type | startswith("payment_") or startswith("dispute_")) or .data.payment_id? then "flag"
    else null end;

# Ids with a missing part are null, so payproc reports the line.
def joined: if all(. != null and . != "") then map(tostring) | join(":") else null end;

# A capture implies an authorization, whose event may be missing or late.
def events:
  if (.type | type) != "string" or (.data // .event_data | type) != "object" then foreign
  else
    step as $step
    | if $step == null then .type
      elif payment == null or ((.type | startswith("dispute_")) and .data.payment_id? == null) then
        "! \(.type), which names no payment"
      else
        ($step | if . == "capture" then "authorize", . else . end) as $type
        | { event_id: ([if $type == "authorize" then payment else .id end, $type] | joined), payment_id: payment,
            type: $type, psp: .type, created: time, amount: .data.amount, currency: .data.currency,
            balances: .data.balances, reference: .data.reference, live: (is_test | not), entity_id: .data.entity_id,
            implied: ($type != $step) }
      end
  end;

def put($key; $value): setpath([$key]; $value);
def number_at($key): if .[$key] == null then 0 else .[$key] end;

# A fact that several messages imply is printed once. The common part has yet to count it as printed.
def tell($event):
  "told \($event.event_id)" as $told
  | ($event.implied == true and .[$told] == true) as $known
  | put($told; $event.event_id != null)
  | if $known then put("printed"; number_at("printed") - 1) | put("out"; null) else put("out"; $event) end;

def remember($event): tell($event);
def judge($event): .out | if . == null then empty else del(.implied) end;

# ---- The same in every recipe: options, messages, envelopes, counts and the report -----------------

def drain: (try (input | null) catch .) as $problem
  | if $problem == "break" or $problem == "No more inputs" then . else drain end;

# jq 1.6 would run this program anew on the rest of the input, so read that first.
def stop($code): "\(recipe): \(.)\n" as $line | drain | $line | halt_error($code);

def unknown_options:
  $ARGS.named | to_entries[] | .value as $value | select(any(options[.key] // [] | .[]; . == $value) | not)
  | "unknown --arg \(.key) \(.value), expected "
    + ([options | to_entries[] | "--arg \(.key) \(.value | join("|"))"] | join(", "));

# After a damaged message jq would go on in the middle of it.
def messages:
  ., (try inputs catch (
    "stopped at a message that is not JSON (\(.)); mend it and run all again. All printed events are right" | stop(5)));

# EventBridge; CloudEvents; Kafka, with or without Connect; SQS; SNS; a log of requests.
def envelope:
  if (.["detail-type"] | type) == "string" then .detail
  elif has("specversion") then .data
  elif has("topic") or has("schema") then .payload // .value
  else
    (.isBase64Encoded == true) as $encoded
    | .Records // .Messages // .Message // .Sns // .Body // .body
    | if $encoded and type == "string" then (try @base64d catch "") else . end
  end;

# A message may be JSON in a string.
def items:
  def oldest_first:
    if length < 2 then .
    else
      [.[0], .[-1] | objects | [items][0] | objects | time | values] as [$first, $last]
      | if $last != null and $first > $last then reverse else . end
    end;
  if type == "array" then oldest_first[] | items
  elif type == "string" then (try [fromjson] catch [""])[0] | if type == "array" or type == "object" then items else . end
  elif type != "object" then .
  else [page, envelope][0] as $inner | if $inner == null then . else $inner | items end end;

# An object is an event to print, a string a kind that is left out. An array holds an event that is
# only remembered, because payproc has it on record, or because of the kind beside it.
def results:
  ($ARGS.named.mode == "test") as $test
  | try (
    if type != "object" then foreign
    elif .event_id and .payment_id and .psp then [.]
    elif is_test != $test then
      if $test then "! live events, because of --arg mode test"
      else "! test-mode events; --arg mode test takes them, and only them" end
    else events end
  ) catch "! messages that the recipe cannot read: \(.)";

def add_one($path): setpath($path; getpath($path) + 1);

# Kinds come from outside: printable ASCII only.
def shown: .[:120] | explode | map(if 31 < . and . < 127 then . else 63 end) | implode;

def report:
  [.left_out // {} | to_entries | sort_by(-.value, .key)[] | .key |= shown] as $kinds
  | ($kinds | map(select(.key | startswith("! ") | not))) as $known
  | "\(recipe): \(.printed // 0) events printed, \($kinds | map(.value) | add // 0) messages left out"
    + if $known == [] then "" else ": " + ($known[:20] | map("\(.value) \(.key)") | join(", ")) end
    + if $known[20:] == [] then "" else ", \($known[20:] | length) more kinds" end,
    ($kinds[] | select(.key | startswith("! ")) | "\(recipe): LEFT OUT \(.value): \(.key[2:])");

first(unknown_options | stop(2)),
foreach ((messages | items | results), null) as $result ({};
  # The state has one level for payments and one for kinds, because jq copies what is deeper.
  if $result == null then .
  elif $result | type == "string" then add_one(["left_out", $result])
  elif $result | type == "array" then
    remember($result[0]) | if $result[1] then add_one(["left_out", $result[1]]) else . end
  else remember($result) | add_one(["printed"]) end;
  if $result == null then [report] | join("\n") + "\n" | halt_error(0)
  elif $result | type == "object" then judge($result) | with_entries(select(.value != null))
  else empty end)
