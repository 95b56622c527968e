# GoCardless's events as input for payproc; your_own.md beside this file explains the mapping.
#
#   set -o pipefail
#   jq -cf sample_events/psp/gocardless.jq gocardless.jsonl | payproc ingest -
#
# A dump may also hold payments and refunds from the API. They tell whole refunds from parts.

def recipe: "gocardless.jq";
def options: {mode: ["live"]};
def foreign: "! not a GoCardless event";

# The events of a webhook or a list. Payments and refunds from the API go first.
def objects_in($kind): .[$kind] | if type == "array" then .[] else . end | objects | .resource = $kind;
def page:
  [., (.linked | objects)] as $places
  | [$places[] | objects_in("payments")] as $payments
  | [$places[] | objects_in("refunds")] as $refunds
  | if .events == null and $payments == [] and $refunds == [] then empty
    else [$payments, $refunds, .events // []] end;
def time: .created_at;
def is_test: false;

# Known actions without effect on a payment's state. A failure with will_attempt_retry is one, too.
def no_step: {
  created: 1, customer_approval_granted: 1, customer_approval_skipped: 1, submitted: 1, paid_out: 1,
  surcharge_fee_credited: 1, surcharge_fee_debited: 1
};

# Ids with a missing part are null, so payproc reports the line.
def joined: if all(. != null and . != "") then map(tostring) | join(":") else null end;

# A bank debit has no authorization: nothing is certain before `confirmed`. What happens after it,
# such as a late failure, is for a person.
def payment_event:
  (if no_step["\(.action)"] or (.action == "failed" and .details.will_attempt_retry == true) then null
   elif .action == "confirmed" then "authorize", "capture"
   elif .action | . == "failed" or . == "cancelled" or . == "customer_approval_denied" then "fail"
   else "flag" end) as $type
  | if $type == null then "payments \(.action)"
    else
      { event_id: ([.id, $type] | joined), payment_id: .links.payment, type: $type, psp: "payments \(.action)",
        created: .created_at, cause: .details.cause, organisation: .links.organisation }
    end;

def object_event($payment; $fact):
  { event_id: ($fact | joined), payment_id: $payment, type: $fact[-1], psp: .resource, created: .created_at,
    amount, amount_refunded, currency, implied: true };

# A payment from the API. It may say that it was refunded; remember needs its amount in any case.
def payment_object:
  if (.amount_refunded // 0) == 0 then object_event(.id; [.id, "memory"]) | [., "payments without a refund"]
  elif .amount_refunded == .amount then object_event(.id; [.id, "refund"])
  else object_event(.id; [.id, "refunded", .amount_refunded, "flag"]) end;

# An event of a refund names the refund alone. The dump may hold the refund, with its payment.
def refund_event:
  (.action | . == "created" or . == "paid" or . == "refund_settled") as $is_step
  | { event_id: (if $is_step then [.links.refund, "event", "flag"] else [.id, "flag"] end | joined),
      payment_id: (.links.payment // .links.refund), type: "flag", psp: "refunds \(.action)", created: .created_at,
      organisation: .links.organisation, refund_id: .links.refund, implied: $is_step };

# Types that name the payment which they led to.
def repeats_payments: .resource_type | . == "subscriptions" or . == "instalment_schedules" or . == "mandates"
  or . == "billing_requests" or . == "payouts" or . == "scheme_identifiers";

def events:
  if .resource == "refunds" then object_event(.links.payment; [.id, "flag"]) + {refund_id: .id}
  elif .resource == "payments" then payment_object
  elif (.resource_type | type) != "string" or (.links | type) != "object" then foreign
  elif .resource_type == "payments" then payment_event
  elif .resource_type == "refunds" then refund_event
  elif .links.payment and (repeats_payments | not) then
    { event_id: ([.id, "flag"] | joined), payment_id: .links.payment, type: "flag",
      psp: "\(.resource_type) \(.action)", created: .created_at, organisation: .links.organisation }
  else "\(.resource_type) \(.action)" end;

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
  "payment \($event.refund_id)" as $known
  | (if .[$known] == null then $event.payment_id else .[$known] end) as $payment
  | "refunded \($payment)" as $refunded
  | if $event.psp == "payments" then put("total \($payment)"; $event.amount)
    elif $event.psp == "refunds" and .[$known] == null then
      put($known; $payment) | put($refunded; number_at($refunded) + ($event | units))
    else . end
  | .["total \($payment)"] as $total
  | .[$refunded] as $sum
  | if $event.type == "memory" then .
    elif $event.refund_id == null or .[$known] == null then tell($event)
    elif $event.implied != true then tell($event | .payment_id = $payment)
    else
      tell($event | .payment_id = $payment
        | if $total == null then .event_id = "\(.refund_id):flag"
          elif $total == $sum then .event_id = "\($payment):refund" | .type = "refund"
          else .event_id = "\($payment):refunded:\($sum):flag" end)
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
