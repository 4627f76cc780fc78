-- wrk … -s wrk.lua URL -- GET|POST BODY: the request of every client here; the count comes out as JSON.
function init(args)
   wrk.method = args[1]
   if args[1] == "POST" then
      wrk.body = args[2]
      wrk.headers["Content-Type"] = "application/json"
   end
end

function done(summary, latency, requests)
   local e = summary.errors
   print(string.format('{"recorded": %d, "failed": %d}', summary.requests, e.connect + e.read + e.write + e.status + e.timeout))
end
