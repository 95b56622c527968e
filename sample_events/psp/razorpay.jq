# Razorpay's events as input for payproc; your_own.md beside this file explains the mapping.
#
#   set -o pipefail
#   jq -cf sample_events/psp/razorpay.jq razorpay.jsonl | payproc ingest -

def recipe: "razorpay.jq";
def options: {mode: ["live"]};
def foreign: "! not a Razorpay event";
def page: empty;
def time: .created_at;
def is_test: false;

# Known kinds of which payment.captured or refund.processed says the rest.
def no_step: {
  "payment.created": 1, "payment.pending": 1, "refund.created": 1, "refund.speed_changed": 1, "refund.arn_updated": 1
};

# Kinds that report a payment's capture once more. Some subscribe to one of these alone.
def repeats_capture: . == "order.paid" or . == "invoice.paid" or . == "payment_link.paid"
  or . == "payment_link.partially_paid" or . == "subscription.charged" or . == "qr_code.credited"
  or . == "virtual_account.credited";

# Kinds about something that holds its last payment, whatever became of it.
def repeats_payment: split(".")[0] | . == "order" or . == "invoice" or . == "payment_link" or . == "subscription"
  or . == "qr_code" or . == "virtual_account" or . == "transfer" or . == "settlement";

# Ids with a missing part are null, so payproc reports the line.
def joined: if all(. != null and . != "") then map(tostring) | join(":") else null end;

# The event's own id is in a header, so the ids here are made of the fact and what it happened to.
# An event holds its payment as it was then, with all that was refunded so far.
def facts:
  (.payload.payment.entity // {}) as $payment
  | (.payload.refund.entity // {}) as $refund
  | if .event == "payment.captured" or ((.event | repeats_capture) and $payment.captured == true) then
      ["payment.authorized", $payment.id, "authorize"], ["payment.captured", $payment.id, "capture"]
    elif .event == "payment.authorized" then [.event, $payment.id, "authorize"]
    elif .event == "payment.failed" then [.event, $payment.id, "fail"]
    elif .event == "refund.processed" or (.event == "refund.created" and $refund.status == "processed") then
      if $payment.amount == null or $payment.amount_refunded != $payment.amount then
        ["refund.processed", $refund.id, "flag"]
      elif $payment.captured == false then ["payment.refunded", $payment.id, "fail"]
      else ["payment.refunded", $payment.id, "refund"] end
    elif no_step[.event] then null
    elif .payload.dispute then [.event, .payload.dispute.entity.id, "flag"]
    elif .payload.refund then [.event, $refund.id, "flag"]
    elif .payload.payment and (.event | repeats_payment | not) then [.event, $payment.id, "flag"]
    else null end;

def events:
  if (.event | type) != "string" or (.payload | type) != "object" then foreign
  else
    (.payload | .dispute // .refund // .payment | .entity) as $entity
    | facts as $fact
    | if $fact == null then .event
      else
        { event_id: (if $fact[2] == "flag" then $fact else $fact[:2] end | joined),
          payment_id: ($entity.payment_id // .payload.payment.entity.id), type: $fact[2], psp: .event,
          created: .created_at, amount: $entity.amount, currency: $entity.currency, account_id,
          order_id: .payload.payment.entity.order_id, implied: ($fact[0] != .event) }
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
