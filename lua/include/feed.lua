-- Append what a call has changed to the change feed, the stream of its shard, in the same step. Times are milliseconds.
--
-- INCLUDE  changes
--
-- Appended to each including script, not a function, for the speed of calls with one room. KEYS[1] is the feed, ARGV[1]
-- the feed_length: how many entries it keeps, 0 for no feed. The script sets reply, with a placeholder for the feed_id
-- first, changes and renew.
--
-- An entry alternates names and values. A room's id has its new status; ttl_ms, the TTL of the rooms after it. Of the
-- room before it: reason, why it failed; rank:<rank>, the new status of a rank, or of several (rank:0,1);
-- first:<rank>, the same if that rank created the room, without its former ranks; first, that this change created it,
-- with its generation unless it is plain; owner and request, whose it is then. An entry has so many rooms that a batch
-- costs little more than one room, and so few that the longest feed has about 60 MB.
--
-- Failures are told once more, with the same ids, in the stream of failures: the last key of each script that fails
-- rooms. A room's id has its generation; of the room before it are: request, owner, by (who failed it), reason, origin.
-- What is not known is empty. origin: engine, for a process of its own; abort, for one that was told to; operator; lost
-- or left, for what became of the room's owner.

local FEED_TTL_MS = '86400000'  -- a day: last night's changes can be read in the morning
local WORDS, ROOMS_AN_ENTRY = 5, 16

if #changes > 0 and ARGV[1] ~= '0' then
  local id_at = #KEYS[1] + 2  -- as in room_id.lua
  local first = 1
  while first < #changes do
    local last = math.min(first + WORDS * ROOMS_AN_ENTRY, #changes + 1) - 1
    -- One constructor for the first room, usually the only one: a table that grows item by item costs a microsecond.
    local ttl_ms, id = changes[first + 2], string.sub(changes[first], id_at)
    local entry = ttl_ms and {'ttl_ms', ttl_ms, id, changes[first + 1]} or {id, changes[first + 1]}
    local words, n = changes[first + 4], ttl_ms and 4 or 2
    if words then
      for k = 1, #words do entry[n + k] = words[k] end
      n = n + #words
    end
    if changes[first + 3] then
      entry[n + 1], entry[n + 2], n = 'reason', changes[first + 3], n + 2
    end
    for i = first + WORDS, last, WORDS do
      if ttl_ms and not changes[i + 2] then
        last = i - 1  -- a room whose TTL stays does not stand behind the TTL of others
        break
      elseif changes[i + 2] ~= ttl_ms then
        ttl_ms = changes[i + 2]
        entry[n + 1], entry[n + 2], n = 'ttl_ms', ttl_ms, n + 2
      end
      entry[n + 1], entry[n + 2], n = string.sub(changes[i], id_at), changes[i + 1], n + 2
      words = changes[i + 4]
      if words then
        for k = 1, #words do entry[n + k] = words[k] end
        n = n + #words
      end
      if changes[i + 3] then
        entry[n + 1], entry[n + 2], n = 'reason', changes[i + 3], n + 2
      end
    end
    local appended = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[1], '*', unpack(entry))
    if not appended or appended.err then
      -- No change may lack its entry, so a feed that takes none is begun anew. Followers notice the gap.
      if takes_no_entry(appended) then redis.call('DEL', KEYS[1]) end
      appended, renew = redis.call('XADD', KEYS[1], '*', unpack(entry)), true
    end
    reply[1] = appended
    if openings then
      for i = first, last, WORDS do
        local number = openings[(i - 1) / WORDS + 1]
        local at = number and 2 + openings.width * number
        if at and reply[at] ~= appended then
          redis.call('HSET', KEYS[openings.keys + 2 * number - 1], 'opened', appended)
          reply[at] = appended
        end
      end
    end
    if failures then
      local names = {false, 'request', 'owner', 'by', 'reason', 'origin'}
      entry = {}
      for i = first, last, WORDS do
        local failure = changes[i + 1] == 'Failed' and failures[changes[i]]
        names[1] = string.sub(changes[i], id_at)
        for k = 1, failure and #names or 0 do
          entry[#entry + 1], entry[#entry + 2] = names[k], failure[k] or ''
        end
      end
      if entry[1] then
        local told = redis.pcall('XADD', KEYS[#KEYS], 'MAXLEN', '~', ARGV[1], reply[1], unpack(entry))
        if type(told) == 'table' then  -- as above; or the feed was begun anew, with lower ids
          if takes_no_entry(told) then redis.call('DEL', KEYS[#KEYS]) end
          redis.call('XADD', KEYS[#KEYS], reply[1], unpack(entry))
        end
        redis.call('PEXPIRE', KEYS[#KEYS], FEED_TTL_MS)
      end
    end
    first = last + 1
  end
  if renew then redis.call('PEXPIRE', KEYS[1], FEED_TTL_MS) end
end
return reply
