-- The fast path of write_ranks.lua: ranks of a live room that go up or join, or that clear it.
--
-- INCLUDE  order
--
-- It comes before all else, and has few functions and tables, as advance.lua does. Whatever is unusual, it leaves to
-- the rest of the script, before it writes; a test compares the two. The arguments are as in write_ranks.lua.

local incarnations = {}  -- of the leases that are held, by owner
local found, counts, is_clear  -- of one room: the values of its fields, and its ranks
local entry, gone, words, holders, lengths  -- what is to be done
local outcomes, outcome, common  -- of all ranks; of the last one; and the status that all get

-- Reads a room for its ranks, whose words follow each other from ARGV[at + 1] on.
local function read_quick(room, at, last)
  local names, owners, n = {'status', 'world_size', 'generation', 'counts', 'version'}, {}, 5
  is_clear = ARGV[at + 5] == 'absent'
  if is_clear then names[6], n = 'replayed', 6 end
  for k = at, last, 6 do
    local owner, status = ARGV[k + 3], ARGV[k + 5]
    n = n + 1
    names[n] = ARGV[k + 1]
    if status == 'WaitingForInput' or status == 'Transferring' then
      n = n + 1
      names[n] = ARGV[k + 2]  -- a rank that joins holds no part, and one that ends will hold none
    end
    if owner ~= '' and status ~= 'absent' and not incarnations[owner] then
      incarnations[owner], owners[#owners + 1] = '', owner
    end
  end
  if #owners > 0 then
    local values = redis.call('HMGET', KEYS[3], unpack(owners))
    for i = 1, #owners do incarnations[owners[i]] = string.match(values[i] or '', '^(%d+) ') end
  end
  found = redis.pcall('HMGET', room, unpack(names))
  counts = {string.match(found[4] or '', '^(%d+) (%d+) (%d+) (%d+) (0) (%d+)$')}
  entry, gone, words, holders, lengths, outcomes, outcome, common = {}, {}, {}, {}, {}, {}, nil, nil
end

-- Adds the rank whose words follow ARGV[at], with its status and the holder of its part. Returns whether it is usual.
local function add_quick(at, own, holder)
  local field, owner, incarnation, status, n, m = ARGV[at + 1], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], #entry, #words
  local from, to = own and ORDER[own] or 0, ORDER[status] or 0
  if is_clear then
    if status ~= 'absent' or from == 0 then return false end
    counts[6], common = counts[6] + 1, 'absent'
    words[m + 1], outcome = string.sub(field, 8), '7 ' .. own
    entry[n + 1], entry[n + 2], gone[n + 1], gone[n + 2] = 'cleared:' .. words[m + 1], own, field, ARGV[at + 2]
    lengths[#lengths + 1] = 'length:' .. words[m + 1]
    return true
  end
  if to == 0 or (own and from == 0) or (not own and (counts[6] ~= '0' or to > 2)) then return false end
  if owner ~= '' and incarnations[owner] ~= incarnation then return false end
  if ARGV[at + 6] ~= '' then
    local k = #lengths
    lengths[k + 1], lengths[k + 2] = 'length:' .. string.sub(field, 8), ARGV[at + 6]
  end
  outcome = from >= to and '3 ' .. own or (own and '2 ' or '1 ') .. status
  if from >= to then return true end
  if common and common ~= status then return false end
  if own then counts[from] = counts[from] - 1 end
  counts[to], entry[n + 1], entry[n + 2], words[m + 1] = counts[to] + 1, field, status, string.sub(field, 8)
  common = status
  if to == 4 then
    gone[#gone + 1] = ARGV[at + 2]
  elseif owner ~= '' and holder ~= incarnation then
    entry[n + 3], entry[n + 4], holders[#holders + 1] = ARGV[at + 2], incarnation, incarnation
  end
  return true
end
