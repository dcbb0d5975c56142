-- Read the live generation of each room, and its status as the caller's rank sees it.
--
-- KEYS     epoch; each: room, prefix
-- ARGV     rank
-- REPLY    epoch; each: status, generation, request, length, opened
-- FEED     nothing
-- INCLUDE  numbers, rank_fields, rank_view
--
-- The decode prefix length is this generation's, or one recorded before the room had any. opened is the id of the entry
-- that tells the opening. For a key of another type (made by hand), the error replaces the status or the length; a
-- generation that is no number replaces the status.

local status_field, cleared_field, length_field = rank_fields(ARGV[1])
local reply = {redis.call('HGET', KEYS[1], 'epoch')}
for i = 2, #KEYS, 2 do
  local fields = redis.pcall('HMGET', KEYS[i], 'status', 'generation', 'request', status_field, cleared_field, 'opened')
  local prefix = redis.pcall('HMGET', KEYS[i + 1], length_field, 'generation')
  local n = #reply
  reply[n + 1] = fields.err and fields or rank_view(fields[1], fields[4], fields[5])
  reply[n + 2], reply[n + 3] = fields[2] or false, fields[3] or false
  if fields[2] and not is_number(fields[2]) then reply[n + 1], reply[n + 2] = 'generation ' .. fields[2], false end
  reply[n + 4] = prefix.err and prefix or ((not prefix[2] or prefix[2] == fields[2]) and prefix[1])
  reply[n + 5] = string.match(fields[6] or '', '^%d+-%d+$') or false
end
return reply
