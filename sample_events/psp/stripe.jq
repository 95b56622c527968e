# Stripe's events as input for payproc; README.md beside this file explains the mapping.
#
#   set -o pipefail
#   jq -cf sample_events/psp/stripe.jq stripe.jsonl | payproc ingest -
#
# --arg mode test   take the events of test mode, and only those

def recipe: "stripe.jq";
def options: {mode: ["live", "test"]};
def foreign: "! not a Stripe event";

# A page of a list, oldest event first; Stripe lists the newest first.
def page: if .object == "list" then .data | arrays | reverse else empty end;
def time: .created;
def object: .data | objects | .object | objects;
def is_test: [.livemode, (object | .livemode)] | any(. == false or . == "false");

# Kinds that report no step, by their name or by the word before the first dot.
def no_step: {
  "payment_intent.created": 1, "payment_intent.processing": 1, "payment_intent.requires_action": 1,
  "charge.pending": 1, "review.closed": 1,
  account: 1, application_fee: 1, balance: 1, billing: 1, billing_portal: 1, capability: 1, cash_balance: 1,
  checkout: 1, coupon: 1, credit_note: 1, customer: 1, customer_cash_balance_transaction: 1, entitlements: 1,
  file: 1, financial_connections: 1, identity: 1, invoice: 1, invoice_payment: 1, invoiceitem: 1, mandate: 1,
  payment_link: 1, payment_method: 1, payout: 1, person: 1, plan: 1, price: 1, product: 1, promotion_code: 1,
  quote: 1, reporting: 1, setup_intent: 1, sigma: 1, source: 1, subscription_schedule: 1, tax: 1, tax_rate: 1,
  terminal: 1, test_helpers: 1, topup: 1, transfer: 1
};

# The object that a kind is about, which also says which of its fields names the payment.
def object_of($kind): {
  payment_intent: "payment_intent", charge: "charge", refund: "refund", "charge.refund": "refund"
}[$kind | split(".")[:-1] | join(".")] // .object;

# An object names its PaymentIntent or charge by id, or holds all of it if it was expanded.
def intent: .payment_intent | if type == "object" then .id else . end;
def payment:
  if .object == "payment_intent" then .id
  else intent // if .object == "charge" then .id else .charge | if type == "object" then payment else . end end end;

def intent_steps($kind):
  .capture_method as $method
  | (.amount_received // 0) as $received
  | if $kind == "payment_intent.amount_capturable_updated" then
      if $received > 0 then "authorize", "capture" elif .amount_capturable == 0 then "flag" else "authorize" end
    elif $kind == "payment_intent.succeeded" then
      if $method == "manual" then "capture"
      elif $method == "automatic" or $method == "automatic_async" then "authorize", "capture"
      else "flag" end
    elif $received > 0 then "flag"
    elif $kind == "payment_intent.canceled" then "fail"
    elif $kind == "payment_intent.payment_failed" then "failed attempt"
    else "flag" end;

# A payment that failed when its money was on the account already, such as a bank debit.
def is_reversed: .failure_balance_transaction != null;

# The charge of a PaymentIntent repeats what that reports, except for refunds and late failures.
def charge_steps($kind):
  intent as $intent
  | if $kind == "charge.refunded" then
      if .captured == false then if $intent == null then "fail" else empty end
      elif .captured == true and .refunded == true then "refund"
      else "flag" end
    elif $kind == "charge.updated" then if is_reversed or .status == "failed" then "flag" else empty end
    elif $intent != null then
      if is_reversed then "flag"
      elif $kind == "charge.failed" then "failed attempt"
      elif $kind == "charge.succeeded" or $kind == "charge.captured" then empty
      else "flag" end
    elif $kind == "charge.succeeded" then
      if .captured == true then "authorize", "capture" elif .captured == false then "authorize" else "flag" end
    elif $kind == "charge.captured" then "capture"
    elif $kind == "charge.failed" or $kind == "charge.expired" then "fail"
    else "flag" end;

# charge.refunded reports a refund that goes well.
def refund_steps($kind):
  if $kind != "refund.failed" and (.status == "pending" or .status == "succeeded") then empty else "flag" end;

def steps($kind):
  if .object == "payment_intent" then intent_steps($kind)
  elif .object == "charge" then charge_steps($kind)
  elif .object == "refund" then refund_steps($kind)
  else "flag" end;

# The events that a message becomes, or the kind that is left out. "! " gets it a line of its own.
def events:
  (.type | if type == "string" then . else "" end) as $kind
  | if .object == "v2.core.event" or ($kind | startswith("v1.") or startswith("v2.")) then
      "! thin events, which only name their object: fetch it, or subscribe to snapshot events"
    elif $kind == "" or [object] == [] then foreign
    elif no_step[$kind] or no_step[$kind | split(".")[0]] then $kind
    else
      (object | .object = object_of($kind)) as $object
      | ($object | payment) as $payment
      | [$object | steps($kind)] as $steps
      | if $payment == null and ($object.object | . != "payment_intent" and . != "charge") then
          "! \($kind), which names no payment"
        elif $kind == "refund.created" and $steps == [] then [{payment_id: $payment, psp: $kind}, null]
        elif $kind == "charge.refunded" and $steps == [] then [{payment_id: $payment, psp: $kind}, $kind]
        elif $steps == [] then $kind
        else ($steps[] | if . == "failed attempt" then "flag" else . end) as $step | {
          event_id: (.id | if type == "string" and . != "" and ($step == "flag" or $steps[1])
            then . + ":" + $step else . end),
          payment_id: $payment, type: $step, psp: $kind, created, livemode, account
        } + if $steps == ["failed attempt"] then {is_attempt: true} else {} end + ($object | {
          object: .id, amount, amount_received, amount_captured, amount_refunded, currency, status, reason
        }) end
    end;

def unreported: "! refund.created without charge.refunded, which tells whole refunds from parts; subscribe to it";

def leave_out($kind; $times):
  ["left_out", $kind] as $path
  | setpath($path; getpath($path) + $times)
  | if getpath($path) == 0 then delpaths([$path]) else . end;

# refund.created is left out, because charge.refunded reports the refund, before or after it.
def remember_refund($event):
  "refund of \($event.payment_id)" as $refund
  | .[$refund] as $state
  | if $event.psp == "charge.refunded" then
      setpath([$refund]; "reported")
      | if $state == "unreported" then leave_out(unreported; -1) | leave_out("refund.created"; 1) else . end
    elif $state == null then setpath([$refund]; "unreported") | leave_out(unreported; 1)
    else leave_out($event.psp; 1) end;

# A failed attempt is left out, unless the payment had succeeded before. The common part has yet to
# count it as printed.
def remember($event):
  "succeeded \($event.payment_id)" as $succeeded
  | .[$succeeded] as $before
  | if $event.psp == "payment_intent.succeeded" then setpath([$succeeded]; $event.created)
    elif $event.psp == "charge.refunded" or ($event.psp == "refund.created" and $event.type != "flag") then
      remember_refund($event)
    elif $event.is_attempt != true then .
    elif $before != null and $before < $event.created then setpath(["is_late"]; true)
    else
      setpath(["is_late"]; false) | setpath(["printed"]; .printed + -1) | leave_out($event.psp; 1)
    end;
def judge($event): if $event.is_attempt then if .is_late then $event | del(.is_attempt) else empty end else $event end;

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
