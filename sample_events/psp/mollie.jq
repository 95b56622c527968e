# Mollie's payments as input for payproc; your_own.md beside this file explains the mapping.
#
#   set -o pipefail
#   jq -cf sample_events/psp/mollie.jq mollie.jsonl | payproc ingest -
#
# --arg mode test   take the payments of test mode, and only those

def recipe: "mollie.jq";
def options: {mode: ["live", "test"]};
def foreign: "! not a Mollie object";

# A page of a list. A payment may embed what happened to it, and an event of the new webhooks its object.
def page:
  if (._embedded | type) != "object" then empty
  elif .resource == "payment" then
    [del(._embedded)] + [._embedded.refunds, ._embedded.captures,
      if .amountChargedBack then null else ._embedded.chargebacks end | arrays[]]
  else ._embedded | (.payments, .refunds, .chargebacks, .captures | arrays), (.entity | objects | [.]) end;
def time: .createdAt;
def is_test: .mode == "test";

# Amounts are strings of at most three decimals.
def units: if . == null then 0 else .value | tonumber * 1000 | round end;

# Ids with a missing part are null, so payproc reports the line.
def joined: if all(. != null and . != "") then map(tostring) | join(":") else null end;

# An object shows its payment as it is now, however often it is fetched. The ids name the step: a
# payment has one authorize, capture, refund and fail, and a flag for each sum.
def payment_facts:
  (.amountCaptured | units) as $part
  | (if $part > 0 then $part else {value: .amount.value} | units end) as $captured
  | (.amountChargedBack | units) as $charged_back
  | (if .amountRefunded then .amountRefunded | units
     elif .amountRemaining and .status == "paid" then
       $captured - $charged_back - (.amountRemaining | units)
     else 0 end) as $refunded
  | (if .status == "authorized" then ["authorize"], if $part > 0 then ["capture"] else empty end
     elif .status == "paid" then ["authorize"], ["capture"]
     elif .status | . == "canceled" or . == "expired" or . == "failed" then ["fail"]
     elif .status | . == "open" or . == "pending" then empty
     else [.status, "flag"] end),
    (if $refunded <= 0 then empty
     elif $refunded >= $captured then ["refund"]
     else ["refunded", $refunded / 1000, "flag"] end),
    (if $charged_back > 0 then ["charged_back", $charged_back / 1000, "flag"] else empty end);

def event($payment; $fact):
  { event_id: ($fact | joined), payment_id: $payment, type: $fact[-1], psp: .resource, created: .createdAt,
    amount: .amount.value, currency: .amount.currency, mode, profileId, implied: true }
  + if $fact[-1] == "flag" then {status, amountCaptured, amountRefunded, amountChargedBack} else {} end;

def is_no_step: .resource == "refund" and (.status | . == "failed" or . == "canceled" | not)
  or .resource == "capture" and .status != "failed";

def events:
  if (.resource | type) != "string" then foreign
  elif .resource == "payment" then
    [payment_facts] as $facts
    | if $facts == [] then "payment \(.status)" else event(.id; [.id] + $facts[]) end
  elif .resource == "refund" and .status == "refunded" then [{payment_id: .paymentId, psp: "refund refunded"}, null]
  elif is_no_step then "\(.resource) \(.status)"
  elif .resource | . == "refund" or . == "chargeback" or . == "capture" then
    event(.paymentId; [.id, .status // (if .reversedAt then "reversed" else "charged_back" end), "flag"])
  elif .paymentId then event(.paymentId; [.id, .resource, .status // "unknown", "flag"])
  else "\(.resource) \(.type // .status // "" | tostring)" end;

def put($key; $value): setpath([$key]; $value);
def number_at($key): if .[$key] == null then 0 else .[$key] end;

# A fact that several messages imply is printed once. The common part has yet to count it as printed.
def tell($event):
  "told \($event.event_id)" as $told
  | ($event.implied == true and .[$told] == true) as $known
  | put($told; $event.event_id != null)
  | if $known then put("printed"; number_at("printed") - 1) | put("out"; null) else put("out"; $event) end;

def unreported: "! refund refunded, of a payment that shows no refund; fetch the payment again";

def leave_out($kind; $times):
  ["left_out", $kind] as $path
  | setpath($path; getpath($path) + $times)
  | if getpath($path) == 0 then delpaths([$path]) else . end;

# A refund is left out, because its payment shows it, before or after it.
def remember($event):
  "refund of \($event.payment_id)" as $refund
  | .[$refund] as $state
  | if $event.psp == "refund refunded" then
      if $state == null then put($refund; "unreported") | leave_out(unreported; 1) else leave_out($event.psp; 1) end
    else
      ($event.type == "refund" or ("\($event.event_id)" | contains(":refunded:"))) as $is_report
      | if $event.psp != "payment" or ($is_report | not) then .
      elif $state == "unreported" then
        put($refund; "reported") | leave_out(unreported; -1) | leave_out("refund refunded"; 1)
      else put($refund; "reported") end
      | tell($event)
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
