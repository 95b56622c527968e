# Square's events as input for payproc; your_own.md beside this file explains the mapping.
#
#   set -o pipefail
#   jq -cf sample_events/psp/square.jq square.jsonl | payproc ingest -

def recipe: "square.jq";
def options: {mode: ["live"]};
def foreign: "! not a Square event";

# A page of events, or of payments or refunds from the API.
def page:
  (.events | arrays),
  (.payments, .refunds | arrays | map(objects
    | {type: "list", created_at, data: {object: (if .payment_id then {refund: .} else {payment: .} end)}}));
def time: .created_at;
def is_test: false;

# Ids with a missing part are null, so payproc reports the line.
def joined: if all(. != null and . != "") then map(tostring) | join(":") else null end;

# An event holds the payment as it is now. The ids here name the step, so that each update does not
# report all of them again: a payment has one authorize, capture and refund, and a flag for each sum.
def payment_steps:
  .data.object.payment as $payment
  | ($payment.total_money // $payment.amount_money) as $total
  | ($payment.refunded_money.amount // 0) as $refunded
  | (if $payment.status == "APPROVED" then ["authorize"]
     elif $payment.status == "COMPLETED" then
       ["authorize"], ["capture"],
       if $refunded == 0 then empty
       elif $refunded == $total.amount then ["refund"]
       else ["refunded", $refunded, "flag"] end
     elif $payment.status == "CANCELED" or $payment.status == "FAILED" then ["fail"]
     else [$payment.status, "flag"] end) as $fact
  | { event_id: ([$payment.id] + $fact | joined), payment_id: $payment.id, type: $fact[-1], psp: "payment",
      created: $payment.created_at, amount: $total.amount, currency: $total.currency, merchant_id,
      location_id: $payment.location_id, implied: true }
    + if $fact[0] == "refunded" then {refunded: $refunded} else {} end;

# A refund does not say whether all came back. remember adds up those of the dump.
def refund_step:
  .data.object.refund as $refund
  | { event_id: ([$refund.id, $refund.status, "flag"] | joined), payment_id: ($refund.payment_id // $refund.id),
      type: "flag", psp: "refund \($refund.status)", created: $refund.created_at, amount: $refund.amount_money.amount,
      currency: $refund.amount_money.currency, merchant_id, location_id: $refund.location_id, refund_id: $refund.id,
      implied: true };

def dispute_step:
  .data.object.dispute as $dispute
  | { event_id: ([.event_id, "flag"] | joined), payment_id: $dispute.disputed_payment.payment_id, type: "flag",
      psp: "\(.type) \($dispute.state)", created: .created_at, amount: $dispute.amount_money.amount,
      currency: $dispute.amount_money.currency, merchant_id, location_id };

def events:
  if (.type | type) != "string" or (.data | type) != "object" or (.data.object | type) != "object" then foreign
  else
    .data.object as $object
    | if ($object.payment // $object.refund).status == "PENDING" then "\(.type) PENDING"
      elif $object.payment then payment_steps
      elif $object.refund then refund_step
      elif $object.dispute and (.type | contains("evidence") | not) then
        if $object.dispute.disputed_payment.payment_id then dispute_step else "! \(.type), which names no payment" end
      else .type end
  end;

# A sum with an unknown amount fits no total.
def units: .amount | if type == "number" then . else -0.5 end;

def put($key; $value): setpath([$key]; $value);
def number_at($key): if .[$key] == null then 0 else .[$key] end;

# A fact that several messages imply is printed once. The common part has yet to count it as printed.
def tell($event):
  "told \($event.event_id)" as $told
  | ($event.implied == true and .[$told] == true) as $known
  | put($told; $event.event_id != null)
  | if $known then put("printed"; number_at("printed") - 1) | put("out"; null) else put("out"; $event) end;

def remember($event):
  "total \($event.payment_id)" as $total
  | "refunded \($event.payment_id)" as $refunded
  | "done \($event.refund_id)" as $done
  | if $event.psp == "payment" then put($total; $event.amount) | tell($event)
    elif $event.psp != "refund COMPLETED" then tell($event)
    else
      (if .[$done] then . else put($done; true) | put($refunded; number_at($refunded) + ($event | units)) end)
      | .[$refunded] as $sum
      | if .[$total] == null then tell($event)
        elif .[$total] == $sum then tell($event | .event_id = "\(.payment_id):refund" | .type = "refund")
        else tell($event | .event_id = "\(.payment_id):refunded:\($sum):flag") end
    end;
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
