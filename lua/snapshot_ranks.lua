-- Read for one of its ranks how each room is, as snapshot.lua does, and where each rank is. Times are milliseconds.
--
-- KEYS   feed; each: room
-- ARGV   feed_ttl_ms, rank
-- REPLY  feed_id; each: status, left_ms, ranks
-- FEED   begun
--
-- status is the rank's view, as in view.lua. ranks are the fields "status:<rank>" and "cleared:<rank>", name and value
-- in turn: one text, since a reply of many words takes long to read. Of a key of another type (made by hand) there are
-- none, and its error stands in the place of its status.

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', '1')[1]
local reply = {last and last[1]}
local own, cleared = 'status:' .. ARGV[2], 'cleared:' .. ARGV[2]
if not last then
  reply[1] = redis.call('XADD', KEYS[1], '*', 'begun', 'feed')
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
for i = 2, #KEYS do
  local words, there, ranks = redis.pcall('HGETALL', KEYS[i]), {}, {}
  for k = 1, #words, 2 do
    local name, value = words[k], words[k + 1]
    there[name] = value
    if string.find(name, '^%l+:%d+$') and string.find(value, '^%a+$') then
      ranks[#ranks + 1], ranks[#ranks + 2] = name, value
    end
  end
  local is_failed = there.status == 'Failed' and not there[cleared]
  reply[i * 3 - 4] = words.err and words or is_failed and 'Failed' or there[own] or false
  reply[i * 3 - 3] = redis.call('PTTL', KEYS[i])
  reply[i * 3 - 2] = table.concat(ranks, ' ')
end
return reply
