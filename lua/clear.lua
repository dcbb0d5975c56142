-- Remove each room with its decode prefix length, and say what it was.
--
-- KEYS   feed; each: room, prefix
-- ARGV   feed_length
-- REPLY  feed_id; each: status, reason
-- FEED   absent
-- USES   feed
--
-- A key of another type (made by hand) is removed just so: clearing is how one gets rid of it.

local reply, changes, renew = {false}, {}, false
for i = 2, #KEYS, 2 do
  local was = redis.pcall('HMGET', KEYS[i], 'status', 'reason')
  redis.call('DEL', KEYS[i], KEYS[i + 1])
  if was[1] or was.err then
    local n = #changes
    changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4] = KEYS[i], 'absent', false, false
  end
  reply[i], reply[i + 1] = was[1] or false, was[2] or false
end
