# The answer depends on when it is asked.
package envoy.authz

default allow := false

now := time.now_ns()

allow if {
	time.weekday(now) in {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday"}
	[hour, _, _] := time.clock([now, "Europe/Berlin"])
	hour >= 8
	hour < 18
}

allow if input.attributes.request.http.headers["x-on-call"] == "true"
