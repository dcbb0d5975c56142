-- Read each room for one of its ranks, as snapshot.lua does, and the status of every rank. Times are milliseconds.
--
-- KEYS     feed; each: room
-- ARGV     feed_ttl_ms, rank
-- REPLY    feed_id; each: status, left_ms, ranks
-- FEED     begun
-- INCLUDE  feed_position, limit, rank_fields, rank_view
--
-- A missing feed is started by the entry begun, so that feed_id is always a position in it; with an empty feed_ttl_ms
-- it is not, and feed_id is 0-0. status is as the rank sees it. ranks has the fields "status" (the consensus),
-- "status:<rank>" and "cleared:<rank>", names and values in one string, which parses faster. For a key of another type
-- (made by hand), it is empty, and the error replaces the status.

local reply = {feed_position(ARGV[1])}
local status_field, cleared_field = rank_fields(ARGV[2])
for i = 2, #KEYS do
  local words, ranks = redis.pcall('HGETALL', KEYS[i]), {}
  local status, own, cleared
  for k = 1, #words, 2 do
    local name, value = words[k], words[k + 1]
    if name == 'status' then status = value end
    if name == status_field then own = value elseif name == cleared_field then cleared = value end
    if string.find(value, '^%a+$') and (name == 'status' or string.find(name, '^%l+:%d+$')) then
      ranks[#ranks + 1], ranks[#ranks + 2] = name, value
    end
  end
  reply[i * 3 - 4] = words.err and words or rank_view(status, own, cleared)
  reply[i * 3 - 3] = redis.call('PTTL', KEYS[i])
  reply[i * 3 - 2] = table.concat(ranks, ' ')
  fields_read = fields_read + #words / 2
  if fields_read > MAX_FIELDS then break end
end
return reply
